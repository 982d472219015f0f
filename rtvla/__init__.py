"""rtvla: a real-time runtime for vision-language-action robots. Start with rtvla/README.md."""

__version__ = "0.1.0"
