"""What recorded runs say: tables, figures and verdicts. Everything here reads records and trains nothing."""
