"""One module a command, each with `run(arguments)`; imported only when it is called."""
