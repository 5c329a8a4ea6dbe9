"""A real browser, headless, on what MLflow serves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PROGRAMS = ("chromium", "chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it runs as root in containers, and opens loopback only
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    # A mouse, which headless has not: without one, charts are covered by their tool bars.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
)
WAIT_S = 240  # the first page is 10 MB of JavaScript
CLICK_AGAIN_S = 3.0
SETTLE_S = 15
REDRAWN = (StaleElementReferenceException, ElementClickInterceptedException, ElementNotInteractableException)


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def browser(profile: Path, size: tuple[int, int] = (1440, 1000)) -> Iterator[Browser]:
    """Yield a browser with an empty profile in the given folder."""
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(str(shutil.which("chromedriver"))))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """What a person does with a page: open, look for, click, look at."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver

    def open(self, address: str) -> None:
        self._driver.get(address)

    def find(self, xpath: str) -> None:
        """Wait for an element to be visible."""
        self._wait(lambda driver: bool(visible(driver, xpath)), xpath)

    def sees(self, xpath: str) -> bool:
        """Tell whether an element is visible now."""
        return bool(visible(self._driver, xpath))

    def click(self, xpath: str) -> None:
        """Click an element as soon as there is one that can be clicked."""

        def clicked(driver: Chrome) -> bool:
            elements = visible(driver, xpath)
            if elements:
                elements[0].click()
            return bool(elements)

        self._wait(clicked, xpath)

    def click_until(self, xpath: str, wanted: str) -> None:
        """Click an element until another one is visible; again now and then: a click may shut what has just opened."""
        clicked = -CLICK_AGAIN_S

        def there(driver: Chrome) -> bool:
            nonlocal clicked
            if visible(driver, wanted):
                return True
            if time.monotonic() - clicked >= CLICK_AGAIN_S and (elements := visible(driver, xpath)):
                elements[0].click()
                clicked = time.monotonic()
            return False

        self._wait(there, wanted)

    def click_to_new_tab(self, xpath: str) -> None:
        """Click a link that opens a tab of its own, and go on there."""
        before = set(self._driver.window_handles)
        self.click(xpath)
        self._wait(lambda driver: len(set(driver.window_handles) - before) == 1, f"a tab opened by {xpath}")
        (opened,) = set(self._driver.window_handles) - before
        self._driver.switch_to.window(opened)

    def find_in_frame(self, frame: str, xpath: str) -> None:
        """Wait for an element to be visible in a frame."""
        self.find(frame)
        self._driver.switch_to.frame(visible(self._driver, frame)[0])
        try:
            self.find(xpath)
        finally:
            self._driver.switch_to.default_content()

    def wait_for_script(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        self._wait(lambda driver: bool(driver.execute_script(f"return Boolean({condition})")), condition)

    def screenshot(self, file: Path) -> Path:
        """Save what is to be seen, once it no longer changes."""
        deadline, before = time.monotonic() + SETTLE_S, b""
        while (now := self._driver.get_screenshot_as_png()) != before and time.monotonic() < deadline:
            before = now
            time.sleep(0.5)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(now)
        return file

    def _wait(self, condition: Callable[[Chrome], bool], wanted: str) -> None:
        # The page draws itself anew while it loads, under the hands of whoever holds a part of it.
        waiting = WebDriverWait(self._driver, WAIT_S, ignored_exceptions=REDRAWN)
        waiting.until(condition, f"{wanted} is not on {self._driver.current_url}")


def visible(driver: Chrome, xpath: str) -> list[WebElement]:
    return [element for element in driver.find_elements(By.XPATH, f"//body{xpath}") if element.is_displayed()]
