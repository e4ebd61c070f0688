"""The contract of `media.base.MediaBackend`, tested with real peers that send and receive."""

from signal_manager.testing.media.channels import ChannelsContract
from signal_manager.testing.media.ending import EndingContract
from signal_manager.testing.media.fixtures import MediaFixtures
from signal_manager.testing.media.publishing import PublishingContract
from signal_manager.testing.media.pulling import PullingContract
from signal_manager.testing.media.sessions import SessionsContract

__all__ = ["MediaContract", "MediaFixtures"]


class MediaContract(SessionsContract, PublishingContract, PullingContract, EndingContract, ChannelsContract):
    """Every behaviour of the media contract; a subclass brings the fixtures of `MediaFixtures`."""
