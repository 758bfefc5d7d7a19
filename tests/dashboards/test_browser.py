"""The console in a real browser: it draws, it moves by itself, it loads nothing from elsewhere."""

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select, WebDriverWait

from dashboards.console import serve
from storage.latest import CATCH_UP
from tests.dashboards import citydata

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WAIT_S = 20
DESKTOP = (1280, 800)
PHONE = (390, 844)
# A name that would show itself if it were ever read as HTML.
HOSTILE = "<img src=x onerror=alert(1)>"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.integration,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()),
        reason=f"needs {CHROMIUM} and {DRIVER} (Debian: chromium, chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def console(dsn: str, schema: str) -> Iterator[str]:
    """Serve a small city and return the address."""
    citydata.fill(dsn, schema, datetime.now(UTC), minutes=40)
    with citydata.connect(dsn, schema) as connection:
        connection.execute("UPDATE sensor SET name = %s WHERE name = 'cam-harbour-002'", (HOSTILE,))
    address: queue.Queue[str] = queue.Queue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve(dsn, schema, "127.0.0.1", 0, started=address.put))

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    yield address.get(timeout=WAIT_S)
    loop.call_soon_threadsafe(task.cancel)
    thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.fixture
def page(browser: WebDriver, console: str) -> Iterator[WebDriver]:
    """Open the console at desktop size; afterwards look at what it logged and asked for."""
    resize(browser, DESKTOP)
    browser.get(console)
    until(browser, lambda: text(browser, "#link") == "Live")
    yield browser
    logged = browser.get_log("browser")
    asked = requested(browser)
    browser.get("about:blank")
    assert [entry["message"] for entry in logged] == []
    assert asked, "no request was recorded"
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(console).netloc}


def requested(browser: WebDriver) -> list[str]:
    """Return the addresses asked for over a network since the last call."""
    entries = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = (
        entry["params"]["request"]["url"]
        for entry in entries
        if entry["method"] == "Network.requestWillBeSent"
    )
    # The browser's own pages (chrome:, about:) are asked for inside it.
    return [url for url in urls if urlsplit(url).scheme in ("http", "https", "ws", "wss")]


def resize(browser: WebDriver, size: tuple[int, int]) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
    )


def until(browser: WebDriver, condition: Callable[[], Any]) -> Any:
    return WebDriverWait(browser, WAIT_S, poll_frequency=0.1).until(lambda _: condition())


def text(browser: WebDriver, selector: str) -> str:
    return str(browser.execute_script(f"return document.querySelector('{selector}')?.textContent"))


def texts(browser: WebDriver, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)",
        selector,
    )
    return found


def inked(browser: WebDriver) -> int:
    """Count the pixels of the chart that are not blank."""
    count: int = browser.execute_script("""
        const canvas = document.querySelector("#chart canvas");
        if (!canvas) return 0;
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let inked = 0;
        for (let i = 3; i < data.length; i += 4) if (data[i]) inked += 1;
        return inked;
    """)
    return count


def insert_reading(dsn: str, schema: str, series_id: int, value: float) -> None:
    with citydata.connect(dsn, schema) as connection:
        connection.execute(
            "INSERT INTO reading VALUES (%s, %s, %s, 1, 0.4, 20, 500000)",
            (series_id, datetime.now(UTC), value),
        )
        connection.execute(CATCH_UP)


def test_the_city_is_drawn(page: WebDriver) -> None:
    marks = until(page, lambda: page.find_elements(By.CSS_SELECTOR, "#map path.sensor"))
    assert len(marks) == 12
    shapes = {
        mark.get_attribute("data-state"): mark.get_attribute("d").count("L") for mark in marks
    }
    assert shapes["alert"] == 2  # a triangle
    assert shapes["good"] == 0  # a circle
    assert texts(page, ".zone-name span") == ["Harbour", "Old Town", "Riverside"]
    assert len(page.find_elements(By.CSS_SELECTOR, "#map path.zone")) == 3
    assert len(texts(page, "#newest tr")) == 30
    assert len(texts(page, "#alerts > li")) == 5
    assert text(page, "#total-alerts") == "5"
    assert text(page, "#total-pages") == "4"


def test_the_newest_alert_is_charted_at_once(page: WebDriver) -> None:
    until(page, lambda: inked(page) > 1000)
    assert page.current_url.endswith("/pm25")
    assert "PM2.5" in text(page, '.quantity-button[aria-pressed="true"]')
    assert "µg/m³" in text(page, "#readout")


def test_an_alert_appears_by_itself(page: WebDriver, dsn: str, schema: str) -> None:
    page.execute_script("window.unreloaded = true")
    with citydata.connect(dsn, schema) as connection:
        citydata.insert_alert(
            connection, 1, datetime.now(UTC) + timedelta(seconds=1), severity="critical",
            sentence="Hardly a vehicle where many are expected.",
        )  # fmt: skip
    first = "#alerts > li:first-child .sentence"
    until(page, lambda: text(page, first) == "Hardly a vehicle where many are expected.")
    assert text(page, "#total-alerts") == "6"
    assert page.title == "(6) Citywatch"
    facts = texts(page, "#alerts > li:first-child .fact-value")
    assert facts[1:] == ["93.0", "24.0 ± 16.0", "7.40"]
    assert page.execute_script("return window.unreloaded") is True


def test_a_reading_moves_values_and_age(page: WebDriver, dsn: str, schema: str) -> None:
    insert_reading(dsn, schema, 1, 123_456)
    until(page, lambda: "123,456" in texts(page, "#newest tr:first-child .value"))
    until(page, lambda: text(page, "#total-age-unit") == "s")
    until(page, lambda: float(text(page, "#total-age")) > 2)  # nothing more comes, so it grows
    insert_reading(dsn, schema, 1, 654_321)
    until(page, lambda: float(text(page, "#total-age")) < 2)
    assert "654,321" in texts(page, "#newest tr:first-child .value")


def test_the_chart_follows_its_series(page: WebDriver, dsn: str, schema: str) -> None:
    page.execute_script("location.hash = '#loop-harbour-000/intensity'")
    until(page, lambda: inked(page) > 1000 and "loop-harbour-000" in text(page, "#chart-title"))
    insert_reading(dsn, schema, 1, 98_765)
    until(page, lambda: "98,765" in text(page, "#readout"))


def test_a_mark_on_the_map_selects(page: WebDriver) -> None:
    (mark,) = page.find_elements(By.CSS_SELECTOR, 'path.sensor[aria-label^="air-riverside-001"]')
    ActionChains(page).move_to_element(mark).click().perform()
    until(page, lambda: "air-riverside-001" in text(page, "#chart-title"))
    assert "#air-riverside-001/" in page.current_url
    until(page, lambda: inked(page) > 1000)
    switch = texts(page, ".quantity-button")
    assert len(switch) == 4
    before = page.current_url
    page.find_element(By.CSS_SELECTOR, '.quantity-button[aria-pressed="false"]').click()
    until(page, lambda: page.current_url != before)
    page.back()
    until(page, lambda: page.current_url == before)


def test_the_keyboard_is_enough(page: WebDriver) -> None:
    button = page.find_element(By.CSS_SELECTOR, "#alerts > li:nth-child(2) button")
    page.execute_script("arguments[0].focus()", button)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    until(page, lambda: button.get_attribute("aria-current") == "true")
    find = page.find_element(By.ID, "find")
    find.send_keys("loop-old-town-000", Keys.ENTER)
    until(page, lambda: "#loop-old-town-000/" in page.current_url)


def test_the_window_of_the_chart_can_be_chosen(page: WebDriver) -> None:
    until(page, lambda: inked(page) > 1000)
    Select(page.find_element(By.ID, "minutes")).select_by_value("10080")
    until(page, lambda: any("minutes=10080" in url for url in requested(page)))
    page.refresh()  # the fixture wants requests to look at
    until(page, lambda: text(page, "#link") == "Live")


def test_a_name_is_never_html(page: WebDriver, console: str) -> None:
    page.execute_script("location.hash = '#' + encodeURIComponent(arguments[0])", HOSTILE)
    until(page, lambda: HOSTILE in text(page, "#chart-title"))
    assert page.find_elements(By.TAG_NAME, "img") == []
    page.get(f"{console}/#nobody/nothing")
    until(page, lambda: text(page, "#link") == "Live")


WIDEST = "return document.documentElement.scrollWidth"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_cut_off_sideways(page: WebDriver, size: tuple[int, int]) -> None:
    resize(page, size)
    until(page, lambda: page.execute_script("return innerWidth") == size[0])
    # Map and chart follow the window a frame later.
    until(page, lambda: page.execute_script(WIDEST) <= size[0])
    for part in ("#map", "#alerts", "#chart", "#newest-box"):
        box = page.find_element(By.CSS_SELECTOR, part).rect
        assert box["width"] > 300, part
        assert box["height"] > 100, part
    if size == DESKTOP:
        assert page.execute_script("return document.documentElement.scrollHeight") <= size[1]


def test_a_stale_page_with_a_backlog_fits_a_phone(page: WebDriver) -> None:
    resize(page, PHONE)
    until(page, lambda: page.execute_script("return innerWidth") == PHONE[0])
    # The page writes these again with every frame: written and measured in one turn.
    widest = """
        const show = (id, text) => { document.getElementById(id).textContent = text; };
        show("link", "Stale since 2026-01-01 23:59:59, 59 min ago");
        show("total-stored", "123,456"); show("total-alerts", "10,000");
        show("total-pages", "12,345"); show("total-pending", " 3,000 waiting");
        return document.documentElement.scrollWidth;
    """
    until(page, lambda: page.execute_script(widest) <= PHONE[0])


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_can_be_read_on_its_ground(page: WebDriver, scheme: str) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    colours: dict[str, list[int]] = page.execute_script("""
        const probe = document.body.appendChild(document.createElement("i"));
        const read = (name) => {
          probe.style.color = `var(${name})`;
          return getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
        };
        const names = ["--panel", "--text", "--muted", "--alert", "--fault", "--suspect"];
        const found = Object.fromEntries(names.map((name) => [name, read(name)]));
        probe.remove();
        return found;
    """)
    ground = colours.pop("--panel")
    for name, colour in colours.items():
        assert contrast(colour, ground) >= 4.5, name  # WCAG 2.2, 1.4.3, level AA


def contrast(one: list[int], other: list[int]) -> float:
    """Return the contrast ratio of WCAG 2.2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[int]) -> float:
    parts = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in colour)
    ]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_the_page_says_when_the_line_is_lost(
    browser: WebDriver, dsn: str, schema: str, console: str
) -> None:
    resize(browser, DESKTOP)
    browser.get(console)
    until(browser, lambda: text(browser, "#link") == "Live")
    with citydata.connect(dsn, schema) as connection:
        connection.execute("ALTER TABLE alert RENAME TO alert_away")  # every poll fails now
        until(browser, lambda: text(browser, "#link").startswith("Stale since "))
        connection.execute("ALTER TABLE alert_away RENAME TO alert")
    until(browser, lambda: text(browser, "#link") == "Live")
    browser.get_log("browser")
    browser.get("about:blank")
    browser.get_log("performance")
