"""Update rules: methods that change the step itself, one file each."""
