"""A client: image files in, typed answers out, over httpx."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx
from pydantic import ValidationError

from model.types import ModelRef
from service.schemas import PredictResponse, Problem


class ProblemError(Exception):
    """The service answered with a problem; `problem` is its body."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem


class Client:
    """Talks to one service; a context manager that keeps the connection open."""

    def __init__(self, url: str, timeout_seconds: float = 60.0, key: str | None = None) -> None:
        """Make a client of the service at `url`, as in http://127.0.0.1:8000.

        Args:
            url: the address; an API key goes to it only, and not where it may redirect to.
            timeout_seconds: time for a request.
            key: the API key, where the service asks for one.
        """
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, timeout=timeout_seconds, headers=headers)

    def __enter__(self) -> "Client":
        """Open the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._http.close()

    def predict(
        self, images: Sequence[bytes | str | Path], model: str | None = None, top_k: int = 5
    ) -> PredictResponse:
        """Classify image files, given by their bytes or their paths, in one request.

        Raises:
            ValueError: no image is given.
            InvalidReference: `model` is not a model reference.
            ProblemError: the service refused the request.
            httpx.HTTPError: the service could not be reached.
        """
        files = [image if isinstance(image, bytes) else Path(image).read_bytes() for image in images]
        if not files:
            raise ValueError("no image is given")
        path = f"/v1/models/{ModelRef.parse(model)}/predict" if model else "/v1/predict"
        if len(files) == 1:
            response = self._http.post(path, params={"top_k": top_k}, content=files[0])
        else:
            form = [("images", (str(number), data)) for number, data in enumerate(files)]
            response = self._http.post(path, params={"top_k": top_k}, files=form)
        if response.is_success:
            return PredictResponse.model_validate_json(response.content)
        try:
            raise ProblemError(Problem.model_validate_json(response.content))
        except ValidationError:
            response.raise_for_status()
            raise
