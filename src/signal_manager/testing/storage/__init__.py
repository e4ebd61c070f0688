"""The contract of `storage.base.Storage`: what every adapter is held to."""

from signal_manager.testing.storage.clients import ClientsContract
from signal_manager.testing.storage.fixtures import StorageFixtures
from signal_manager.testing.storage.media import MediaContract
from signal_manager.testing.storage.records import RecordsContract
from signal_manager.testing.storage.rooms import RoomsContract
from signal_manager.testing.storage.upkeep import UpkeepContract

__all__ = ["StorageContract", "StorageFixtures"]


class StorageContract(ClientsContract, RecordsContract, RoomsContract, MediaContract, UpkeepContract):
    """Every behaviour of the storage contract; a subclass brings the fixtures of `StorageFixtures`."""
