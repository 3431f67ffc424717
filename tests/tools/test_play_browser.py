"""`python -m fastact play` in a headless Chromium: `make test-browser`. Needs selenium, chromium and chromedriver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import play_pictures
import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with play_pictures.served() as address:
        yield address


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with play_pictures.chromium() as driver:
        yield driver


@pytest.fixture
def page(driver: Chrome, address: str) -> Iterator[play_pictures.Page]:
    """Opened anew. What it asks for comes from here, and nothing goes wrong."""
    yield play_pictures.Page(driver, address)
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    sockets = [each["params"]["url"] for each in events if each["method"] == "Network.webSocketCreated"]
    assert asked
    assert sockets
    assert {urlsplit(url).netloc for url in (*asked, *sockets) if not url.startswith("data:")} == {
        urlsplit(address).netloc
    }
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_trains_and_pauses(page: play_pictures.Page) -> None:
    page.train(10)
    paused = page.step
    page.press("Step")
    page.wait(lambda: page.step == paused + 1)
    page.press("Reset")
    page.wait(lambda: page.step == 0)


def test_another_activation(page: play_pictures.Page) -> None:
    page.enter("Activation", "ELU")
    page.wait(lambda: "alpha" in page.text)
    page.enter("alpha", "0.5")
    page.train(5)
    assert "ELU" in page.text


def test_a_formula(page: play_pictures.Page) -> None:
    page.enter("or a formula", "x * open(x)")
    page.wait(lambda: "open(x) is not allowed" in page.text)
    assert not page.button("Train").is_enabled()
    page.enter("or a formula", "x * sigmoid(x)")
    page.wait(lambda: page.button("Train").is_enabled())
    page.train(5)


def test_a_story(page: play_pictures.Page) -> None:
    page.press("ReLU dies")
    page.train(60)
    assert "100% of the units are dead" in page.text


def test_the_keyboard_alone(page: play_pictures.Page) -> None:
    labels = []
    for _ in range(2):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        labels.append(page.focused)
    assert labels == ["Dark", "Train"]
    ActionChains(page.driver).send_keys(Keys.SPACE).perform()
    page.wait(lambda: page.step > 0)
    assert page.focused == "Train"
    ActionChains(page.driver).send_keys(Keys.TAB, Keys.SPACE).perform()
    page.wait(lambda: "Paused" in page.text)


def test_each_tab_has_its_own_experiment(page: play_pictures.Page, address: str) -> None:
    page.press("Step")
    page.wait(lambda: page.step == 1)
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    other = play_pictures.Page(page.driver, address)
    assert other.step == 0
    page.driver.close()
    page.driver.switch_to.window(first)
    page.press("Step")
    page.wait(lambda: page.step == 2)


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone(page: play_pictures.Page, dark: bool) -> None:
    page.driver.set_window_size(390, 844)
    if dark:
        page.press("Dark")
    page.train(5)
    widths = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scroll, client = page.driver.execute_script(widths)
    page.driver.set_window_size(1280, 1000)
    assert scroll == client
