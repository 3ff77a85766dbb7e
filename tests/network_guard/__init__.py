"""The folder that goes on PYTHONPATH so that Python processes started by a test are guarded too."""
