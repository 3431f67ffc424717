"""The pictures of docs/play.md, of the page in a headless Chromium. Its tests drive the page through the same class.

Needs selenium, chromium and chromedriver: `make play-pictures`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

PATIENCE = 120  # seconds; the machine may do much else
# Widgets stand in shadow trees, where neither selectors nor the text of a page reach.
_WALK = """
function* walk(root) {
  for (const node of root.childNodes) {
    if (["STYLE", "SCRIPT"].includes(node.nodeName)) continue;
    yield node;
    if (node.shadowRoot) yield* walk(node.shadowRoot);
    yield* walk(node);
  }
}
const nodes = [...walk(document.body)];
"""
_BUTTON = f"{_WALK} return nodes.find(node => node.nodeName == 'BUTTON' && node.textContent.startsWith(arguments[0]))"
_FIELD = f"""{_WALK}
const label = nodes.find(node => node.nodeName == "LABEL" && node.textContent.startsWith(arguments[0]));
return label.closest(".bk-input-group").querySelector("input, select");
"""
_TEXT = f"{_WALK} return nodes.filter(node => node.nodeName == '#text').map(node => node.textContent).join(' ')"
_FOCUSED = """
let element = document.activeElement;
while (element.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
return element.textContent;
"""


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """The address of the page of `python -m fastact play`. It is killed, as it ignores SIGINT where a shell has started
    all this in the background."""
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "fastact", "play", "--no-browser", "--port", port, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0]
        finally:
            process.kill()


@contextmanager
def chromium(width: int = 1280, height: int = 1000) -> Iterator[webdriver.Chrome]:
    """Without a screen; it writes down what the page says on its console, and what it asks the network for."""
    options = webdriver.ChromeOptions()
    for option in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "hide-scrollbars",
        f"window-size={width},{height}",
    ):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The page, opened, and what one does with it."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        driver.get(address)
        self.wait(lambda: self.step == 0)

    def wait(self, condition: Callable[[], Any]) -> None:
        """Until something is so. An element that the page replaces in the meantime is looked for again."""
        end = time.monotonic() + PATIENCE
        while True:
            with suppress(StaleElementReferenceException):
                if condition():
                    return
            if time.monotonic() > end:
                raise TimeoutError(self.text)
            time.sleep(0.2)

    @property
    def text(self) -> str:
        """All that can be read."""
        return self.driver.execute_script(_TEXT)

    @property
    def step(self) -> int | None:
        """How many steps the network has been trained."""
        found = re.search(r"step ([\d,]+):", self.text)
        return int(found[1].replace(",", "")) if found else None

    @property
    def focused(self) -> str:
        """What the element says that has the keyboard."""
        return self.driver.execute_script(_FOCUSED)

    def button(self, label: str) -> WebElement | None:
        """The one whose label begins so."""
        return self.driver.execute_script(_BUTTON, label)

    def press(self, label: str) -> None:
        """A button."""
        self.wait(lambda: self.button(label))
        self.button(label).click()

    def enter(self, title: str, value: str) -> None:
        """Text into a field, or choose it from a list."""
        field = self.driver.execute_script(_FIELD, title)
        if field.tag_name == "input":
            field.send_keys(Keys.CONTROL, "a", Keys.NULL, value, Keys.ENTER)
        else:
            field.send_keys(value)

    def train(self, steps: int) -> None:
        """Go on until so many steps are done, and pause."""
        self.press("Train")
        self.wait(lambda: (self.step or 0) >= steps)
        self.press("Pause")
        self.wait(lambda: "Paused" in self.text)


PICTURES = {
    "play": ("ReLU dies at a high learning rate", 200, False),
    "play-vanishing": ("Sigmoid in ten layers", 100, False),
    "play-digits": ("Handwritten digits", 200, True),
}
"""Of docs/play.md: the story, how many steps, and whether the page is dark."""


def main(folder: Path = Path(__file__).parent) -> None:
    """Draw them."""
    with served() as address, chromium(1280, 1420) as driver:
        for name, (story, steps, dark) in PICTURES.items():
            page = Page(driver, address)
            if dark:
                page.press("Dark")
            page.press(story)
            page.train(steps)
            time.sleep(2)  # until the last picture is drawn
            picture = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            picture.quantize(256).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
