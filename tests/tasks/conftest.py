from tests.models.conftest import golden

__all__ = ["golden"]
