from tests.tiny import data, frozen_imports, one_thread, picture_root, tiny_config

__all__ = ["data", "frozen_imports", "one_thread", "picture_root", "tiny_config"]
