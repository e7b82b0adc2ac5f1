"""A prompt-and-seed explorer: widgets in a live notebook, the same pictures as a fixed grid on a stored page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prx_lab.errors import LabError
from prx_lab.images import Samples
from prx_lab.sample import CFG
from prx_lab.show import live

Sample = Callable[[Sequence[str], int, int, CFG], Tensor]  # (prompts, seed, steps, guidance) -> float (n, 3, H, W) in [-1, 1]


@dataclass(frozen=True, eq=False, repr=False)
class Explorer:
    """Prompts against seeds for one sampler; `steps` and `guidance` are where the sliders begin."""

    sampler: Sample
    prompts: Sequence[str]
    seeds: Sequence[int] = (0, 1, 2, 3)
    steps: int = 20
    guidance: CFG = CFG()

    def __post_init__(self) -> None:
        if not self.prompts or not self.seeds:
            raise LabError("An explorer needs at least one prompt and one seed.")

    def static(self) -> Samples:
        """The grid of every prompt (a row) with every seed (a column)."""
        columns = [self.sampler(self.prompts, seed, self.steps, self.guidance) for seed in self.seeds]
        images = torch.stack(columns, dim=1).flatten(0, 1)  # (prompts, seeds, 3, H, W) -> (prompts * seeds, 3, H, W)
        captions = [f"{prompt} (seed {seed})" for prompt in self.prompts for seed in self.seeds]
        return Samples(images, captions, cols=len(self.seeds))

    def widget(self):
        """The ipywidgets form: a prompt to type or choose, sliders, and a button, since a sample takes a while."""
        import ipywidgets as w

        prompt = w.Combobox(value=self.prompts[0], options=tuple(self.prompts), description="prompt", layout=w.Layout(width="95%"))
        seed = w.IntText(value=self.seeds[0], description="seed")
        steps = w.IntSlider(value=self.steps, min=1, max=max(100, self.steps), description="steps")
        guidance = w.FloatSlider(value=self.guidance.scale, min=0.0, max=max(10.0, self.guidance.scale), step=0.5, description="guidance")
        button, said = w.Button(description="sample", button_style="primary"), w.Label()
        picture = w.Image(format="png", layout=w.Layout(width="320px", height="320px"))

        def sample(_: object) -> None:
            button.disabled, said.value = True, "sampling ..."
            try:
                image = self.sampler([prompt.value], seed.value, steps.value, replace(self.guidance, scale=guidance.value))
                picture.value = Samples(image)[0].resize((320, 320))._repr_png_()
                said.value = f"seed {seed.value}, {steps.value} steps, guidance {guidance.value:g}"
            except LabError as error:
                said.value = str(error)
            finally:
                button.disabled = False

        button.on_click(sample)
        sample(button)
        return w.VBox([prompt, w.HBox([seed, steps, guidance, button]), said, picture])

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget() if live() else self.static())

    def __repr__(self) -> str:
        return f"Explorer: {len(self.prompts)} prompts, {len(self.seeds)} seeds, {self.steps} steps, guidance {self.guidance.scale:g}"
