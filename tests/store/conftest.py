"""Property tests of the store judge content, not the speed of a busy machine."""

from hypothesis import HealthCheck, settings

settings.register_profile("store", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("store")
