"""The page in a real Chromium, wide and as on a phone, over a real service with a real worker."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.conftest import ROWS, Finished

from .conftest import Service, plant, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PHONE = {"width": 390, "height": 844}
PATIENCE = 600_000  # milliseconds: a worker starts, and runs a model
pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, finished: Finished) -> Iterator[tuple[Service, str]]:
    """A service with one worker, and Anna's finished study."""
    data = tmp_path_factory.mktemp("page") / "data"
    data.mkdir()
    study = plant(data, "anna", finished, "rooms <b>and</b> lamps")  # before a worker could take it up
    with serving(data, "--workers", "1") as service:
        yield service, study


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def faults() -> list[str]:
    return []


def opened(browser: Any, service: Service, faults: list[str], owner: str = "anna", **how: Any) -> Any:
    """A page that has signed in."""
    page = browser.new_context(**how).new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda request: request.url.startswith((service.url, "data:", "blob:")) or faults.append(request.url)
    )
    page.goto(service.url)
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("this token is not known here").wait_for()
    page.get_by_label("Token").fill(service.tokens[owner])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Studies").wait_for()
    return page


def test_a_finished_study_on_a_phone(browser: Any, busy: tuple[Service, str], faults: list[str]) -> None:
    service, study = busy
    page = opened(browser, service, faults, viewport=PHONE, has_touch=True, is_mobile=True)
    card = page.get_by_role("link", name="rooms <b>and</b> lamps")
    assert "adopt" in card.inner_text()
    card.click()
    page.get_by_text(re.compile("^Adopt (the tuned policy|.*, a known method)")).first.wait_for()
    chart = page.locator(".chart svg[role=img]")
    chart.wait_for()
    assert chart.locator("circle").count() >= 26
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "nothing runs over the edge"
    star = page.locator(".chart svg[role=img] path[transform]")
    star.dispatch_event("click")
    assert "keeps" in page.locator("figcaption").inner_text()
    page.get_by_label("Tokens").fill("60")
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("alpha 0.").or_(page.get_by_text("alpha 1.")).first.wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="a2sf_config.json").click()
    assert json.loads(Path(download.value.path()).read_text())["task"] == "knowledge"
    with page.context.expect_page() as picture:
        page.get_by_role("link", name="pareto.html").click()
    picture.value.locator(".main-svg").first.wait_for()
    assert picture.value.evaluate("window.origin") == "null", "what a run wrote cannot act as its reader"
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Remove this study").click()
    assert service.get("anna", f"/v1/studies/{study}").status_code == 200
    assert faults == []


def test_samples_go_up_are_looked_at_and_a_study_begins(
    browser: Any, busy: tuple[Service, str], faults: list[str], tmp_path: Path
) -> None:
    service, _ = busy
    (tmp_path / "lamps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "wrong.jsonl").write_text('{"context": "a", "summary": "b"}\n')
    page = opened(browser, service, faults, viewport={"width": 1280, "height": 900})
    page.get_by_role("link", name="New study").first.click()
    page.locator("#task option").first.wait_for(state="attached")
    page.get_by_label("Task", exact=True).select_option("knowledge")
    page.get_by_label("Name", exact=True).fill("<img src=x onerror=alert(1)>")
    page.get_by_label("Samples").set_input_files(tmp_path / "wrong.jsonl")
    page.get_by_role("button", name="Start the study").click()
    page.get_by_text("pass --column answer=summary, or rename the column").wait_for()
    page.get_by_label("Samples").set_input_files(tmp_path / "lamps.jsonl")
    page.get_by_role("button", name="Check it first").click()
    page.get_by_text("3 search, 2 select, 9 report samples").wait_for()
    assert "full cache, 5 samples" in page.locator(".lines").inner_text()
    page.get_by_role("button", name="Start the study").click()
    page.get_by_role("heading", name="<img src=x onerror=alert(1)>").wait_for()
    page.get_by_text("Loading the model").wait_for()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel this study").click()
    page.locator(".chip", has_text="cancelled").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    assert faults == []


def test_another_owner_sees_none_of_it(browser: Any, busy: tuple[Service, str], faults: list[str]) -> None:
    service, study = busy
    page = opened(browser, service, faults, owner="bert", viewport=PHONE)
    page.get_by_text("No studies yet").wait_for()
    page.goto(f"{service.url}/#/studies/{study}")
    page.get_by_text("you have no study").wait_for()
    assert faults == []
