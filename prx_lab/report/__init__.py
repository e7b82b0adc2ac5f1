"""What recorded runs say: tables, figures and verdicts. Everything here reads records; two studies sample again, and nothing trains."""
