"""What stops the preparation of a clip without being an error."""

from fantasytalking.data.manifest import RejectionReason


class ClipRejected(Exception):  # noqa: N818  (it is no error: the clip is left out)
    """The clip cannot be used."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail
