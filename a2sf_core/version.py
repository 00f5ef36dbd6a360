"""The version of the installed a2sf-tune distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("a2sf-tune")
except PackageNotFoundError:
    __version__ = "unknown"
