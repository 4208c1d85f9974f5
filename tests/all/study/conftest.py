from one_by_one import executor  # noqa: F401
