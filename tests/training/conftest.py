from tests.tiny import data, one_thread, picture_root, tiny_config

__all__ = ["data", "one_thread", "picture_root", "tiny_config"]
