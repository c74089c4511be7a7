"""The ClientApp that Flower loads."""

from pathlib import Path

from cwmp.flower.client import client_app

app = client_app(Path(__file__).parent)
