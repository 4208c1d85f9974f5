from command_line import cli  # noqa: F401
