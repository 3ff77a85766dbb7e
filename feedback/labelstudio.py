"""A Label Studio server, as far as ndd needs it. The only file that knows its SDK.

Works with personal access tokens (JSON web tokens, exchanged for short-lived ones and refreshed) and with legacy tokens.
Records come and go as plain dictionaries; what they mean is for `feedback.tasks` to say.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from ndd.errors import NddError

__all__ = ["LabelStudioError", "Server"]

T = TypeVar("T")

_PAGE = 100
_TIMEOUT = 60.0
_ONCE: Any = {"max_retries": 0}
"""For what must not happen twice: a request may have been carried out although its answer was an error."""


class LabelStudioError(NddError):
    """Label Studio cannot be reached, or refused."""


class Server:
    """A connection to a Label Studio server. Every method raises LabelStudioError where the server cannot be reached or
    refuses; what was asked for may have happened all the same."""

    def __init__(self, url: str, *, token: str) -> None:
        """token: a personal access token or a legacy one."""
        self.url = url.rstrip("/")
        self._http = httpx.Client(timeout=_TIMEOUT, follow_redirects=True, trust_env=not _is_local(self.url))
        self._api: Any = self._ask(lambda: _connect(self.url, token, self._http))

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def user(self) -> str:
        """E-mail address of the user the token belongs to."""
        return str(self._ask(self._api.users.whoami).email)

    def users(self) -> dict[int, str]:
        """User number → e-mail address."""
        return {int(user.id): str(user.email) for user in self._ask(self._api.users.list)}

    def project(self, tag: str) -> int | None:
        """The project whose description holds `tag`; None if there is none."""
        found = self._ask(lambda: [p for p in self._api.projects.list(page_size=_PAGE) if tag in (p.description or "")])
        return min((int(project.id) for project in found), default=None)

    def create_project(self, *, title: str, description: str, label_config: str, reviewers: int) -> int:
        """Make a project; reviewers: answers wanted for each task."""
        made = self._ask(
            lambda: self._api.projects.create(
                title=title,
                description=description,
                label_config=label_config,
                maximum_annotations=reviewers,
                show_skip_button=False,
                show_instruction=False,
                request_options=_ONCE,
            )
        )
        return int(made.id)

    def update_project(self, project: int, *, label_config: str, reviewers: int | None) -> int:
        """Give a project the labelling screen of this version; answers wanted for each task, as before where None is given."""
        said = self._ask(lambda: self._api.projects.get(project))
        wanted = int(said.maximum_annotations or 1) if reviewers is None else reviewers
        if said.label_config != label_config or said.maximum_annotations != wanted:
            self._ask(lambda: self._api.projects.update(project, label_config=label_config, maximum_annotations=wanted))
        return wanted

    def serve_folder(self, project: int, folder: Path) -> None:
        """Let the server hand out the files of `folder`, below its document root, to the project's reviewers."""
        there = self._ask(lambda: self._api.import_storage.local.list(project=project))
        if all(storage.path != str(folder) for storage in there):
            self._ask(
                lambda: self._api.import_storage.local.create(
                    project=project, path=str(folder), use_blob_urls=True, title="ndd previews"
                )
            )

    def view(self, project: int, data: Mapping[str, Any]) -> int:
        """The tab with the title of `data`; made, or changed to be as `data` says."""
        for view in self._ask(lambda: self._api.views.list(project=project)):
            there: Mapping[str, Any] = view.data or {}
            if there.get("title") == data["title"]:
                if any(there.get(name) != value for name, value in data.items()):
                    changed = {**there, **data}
                    self._ask(
                        lambda id=view.id, changed=changed: self._api.views.update(  # type: ignore[misc]
                            str(id), project=project, data=changed
                        )
                    )
                return int(view.id)
        made = self._ask(lambda: self._api.views.create(project=project, data=dict(data)))
        return int(made.id)

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """All tasks of a project with their annotations."""
        listed = self._ask(lambda: list(self._api.tasks.list(project=project, page_size=_PAGE, resolve_uri=False)))
        return [_plain_task(task) for task in listed]

    def task(self, task: int) -> dict[str, Any] | None:
        """One task with its annotations; None if there is none."""
        try:
            return _plain_task(self._ask(lambda: self._api.tasks.get(str(task))))
        except LabelStudioError as error:
            if getattr(error.__cause__, "status_code", None) == 404:
                return None
            raise

    def add_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Make tasks {"data", "meta", "predictions"}."""
        self._ask(
            lambda: self._api.projects.import_tasks(
                project,
                request=list(tasks),
                request_options=_ONCE,
            )
        )

    def update_task(self, task: int, data: Mapping[str, Any]) -> None:
        """Replace a task's data."""
        self._ask(lambda: self._api.tasks.update(str(task), data=dict(data)))

    def add_prediction(self, task: int, prediction: Mapping[str, Any]) -> None:
        """Give a task a prediction."""
        self._ask(lambda: self._api.predictions.create(task=task, **prediction))

    def reviewer(self, email: str) -> int:
        """The number of the user with this address, made if there is none."""
        known = {address: number for number, address in self.users().items()}
        if email not in known:
            made = self._ask(lambda: self._api.users.create(email=email, username=email.partition("@")[0]))
            return int(made.id)
        return known[email]

    def answer(self, task: int, result: Sequence[Mapping[str, Any]], *, reviewer: int) -> None:
        """Put an annotation of `reviewer` on a task."""
        self._ask(
            lambda: self._api.annotations.create(
                task, result=list(result), completed_by=reviewer, request_options=_ONCE
            )
        )

    def delete_task(self, task: int) -> None:
        """Delete a task with everything on it."""
        self._ask(lambda: self._api.tasks.delete(str(task)))

    def upload(self, project: int, name: str, content: bytes) -> str:
        """Upload a picture without making a task of it; the address at which the server hands it out, without its host.

        project: one whose tasks hold a single picture; Label Studio takes uploads for no other.
        """
        answer = self._ask(
            lambda: self._http.post(
                f"{self.url}/api/projects/{project}/import?commit_to_project=false",
                headers=self._api._client_wrapper.get_headers(),  # the SDK has no call for uploads
                files={"file": (name, content, "image/jpeg")},
            ).raise_for_status()
        )
        (number,) = answer.json()["file_upload_ids"]
        return f"/data/{self._ask(lambda: self._api.files.get(number)).file}"

    def webhook(self, project: int, url: str, *, headers: Mapping[str, str]) -> None:
        """Have the server report annotations to `url`; once, however often this is called."""
        kinds = ["ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"]
        for hook in self._ask(lambda: self._api.webhooks.list(project=str(project))):
            if hook.url == url:
                if hook.headers == dict(headers):
                    return
                self._ask(lambda id=hook.id: self._api.webhooks.delete(id))  # type: ignore[misc]
        self._ask(
            lambda: self._api.webhooks.create(
                project=project,
                url=url,
                headers=dict(headers),
                actions=kinds,
                send_payload=True,
                send_for_all_actions=False,
                is_active=True,
            )
        )

    def _ask(self, call: Callable[[], T]) -> T:
        from label_studio_sdk.core.api_error import ApiError  # light; the package itself is not

        try:
            with warnings.catch_warnings():
                # The SDK still calls pydantic 2 in the way of pydantic 1 here and there.
                warnings.simplefilter("ignore", DeprecationWarning)
                return call()
        except ApiError as error:
            raise LabelStudioError(f"{self.url}: {_reason(error.status_code, error.body)}") from error
        except httpx.HTTPStatusError as error:
            reason = _reason(error.response.status_code, error.response.text)
            raise LabelStudioError(f"{self.url}: {reason}") from error
        except httpx.HTTPError as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise LabelStudioError(
                f"{self.url}: Label Studio does not answer ({said}); start it with `make review`, or check LABEL_STUDIO_URL"
            ) from error
        except ValueError as error:  # an answer that is no JSON: something else listens there
            raise LabelStudioError(f"{self.url}: not the answer of a Label Studio server ({error})") from error


def _connect(url: str, token: str, http: httpx.Client) -> Any:
    from label_studio_sdk import LabelStudio

    connect: Any = LabelStudio
    return connect(base_url=url, api_key=token, httpx_client=http)


def _plain_task(task: Any) -> dict[str, Any]:
    return {
        "id": int(task.id),
        "project": int(task.project),
        "data": dict(task.data or {}),
        "meta": dict(task.meta or {}),
        "annotations": [a if isinstance(a, dict) else a.model_dump(mode="json") for a in task.annotations or []],
        "drafts": len(task.drafts or []),
        "predictions": int(task.total_predictions or 0),
    }


def _reason(status: int | None, body: Any) -> str:
    if status in (401, 403):
        return "the token is refused; set LABEL_STUDIO_API_KEY to a valid personal access token or legacy token"
    said = body.get("validation_errors") or body.get("detail") if isinstance(body, dict) else body
    return f"Label Studio answers {status}: {' '.join(str(said).split())[:300]}"


def _is_local(url: str) -> bool:
    """A proxy named in the environment is not asked for the way to this machine."""
    return httpx.URL(url).host in ("localhost", "127.0.0.1", "::1")
