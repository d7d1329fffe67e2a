"""One module per verb, each with `main(arguments) -> exit code`. Only these write to stdout."""
