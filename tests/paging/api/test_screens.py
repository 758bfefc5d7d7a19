"""Where links in pages lead: who sees what, and who can press the button."""

import asyncio
import html
import os
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from paging.pager import Pager, PagerConfig
from paging.routes import Routes
from paging.sender import SenderConfig
from storage.pages import Page
from tests.dashboards.test_browser import CHROMIUM, DRIVER, FLAGS, PHONE, WAIT_S
from tests.paging.api.conftest import Api, served_securely
from tests.paging.conftest import QUICK, routes_to
from tests.paging.scaffold import eventually, hooked, page_of, running

pytestmark = pytest.mark.integration

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def alert(api: Api) -> Page:
    page = page_of(sentence=f"{HOSTILE} is too loud")
    api.table.put(page)
    return page


class Person:
    """A browser without scripts, and whoever sits before it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.url + path, allow_redirects=False, timeout=20)

    def post(
        self, path: str, headers: dict[str, str] | None = None, **fields: str
    ) -> requests.Response:
        return self.session.post(
            self.url + path, data=fields, headers=headers, allow_redirects=False, timeout=20
        )

    def sign_in(self, token: str, place: str = "/") -> requests.Response:
        return self.post("/sign-in", token=token, next=place)


def proof_in(text: str) -> str:
    found = re.search(r'name="proof" value="(\w+)"', text)
    assert found is not None
    return found[1]


def test_nobody_reads_an_alert_without_a_token(api: Api, alert: Page) -> None:
    for path in (f"/alerts/{alert.alert_id}", f"/alerts/{uuid4()}", f"/groups/{uuid4()}"):
        asked = Person(api.url).get(path)
        assert asked.status_code == 401
        assert 'type="password"' in asked.text
        assert "too loud" not in asked.text
    assert Person(api.url).sign_in("cw_wrong").status_code == 401
    assert not Person(api.url).sign_in("cw_wrong").cookies


def test_whoever_signs_in_comes_to_where_the_link_leads(api: Api, alert: Page) -> None:
    person = Person(api.url)
    path = f"/alerts/{alert.alert_id}"

    signed_in = person.sign_in(api.tokens["responder"], path)

    assert (signed_in.status_code, signed_in.headers["Location"]) == (303, path)
    cookie = signed_in.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    shown = person.get(path)
    assert shown.status_code == 200
    assert html.escape(HOSTILE) in shown.text
    assert HOSTILE not in shown.text
    assert api.tokens["responder"] not in shown.text
    assert "script" not in shown.headers["Content-Security-Policy"]
    person.post("/sign-out")
    assert person.get(path).status_code == 401


def test_the_cookie_opens_the_screens_alone(api: Api, alert: Page) -> None:
    person = Person(api.url)
    person.sign_in(api.tokens["responder"])
    assert person.get(f"/v1/alerts/{alert.alert_id}").status_code == 401
    assert person.post(f"/v1/alerts/{alert.alert_id}/acknowledgement").status_code in (401, 422)


@pytest.mark.parametrize(
    "place",
    ["https://elsewhere.example", "//elsewhere.example/alerts", "/alerts/../x", "/v1/alerts"],
)
def test_signing_in_leads_nowhere_else(api: Api, place: str) -> None:
    assert Person(api.url).sign_in(api.tokens["viewer"], place).headers["Location"] == "/"


def test_the_button_acknowledges(api: Api, alert: Page) -> None:
    person = Person(api.url)
    person.sign_in(api.tokens["responder"])
    path = f"/alerts/{alert.alert_id}"
    proof = proof_in(person.get(path).text)

    pressed = person.post(f"{path}/acknowledge", proof=proof)

    assert (pressed.status_code, pressed.headers["Location"]) == (303, path)
    shown = person.get(path).text
    assert "<b>acknowledged</b> by a-responder" in shown
    assert 'name="proof"' not in shown


def test_who_only_looks_has_no_button(api: Api, alert: Page) -> None:
    person = Person(api.url)
    person.sign_in(api.tokens["viewer"])
    path = f"/alerts/{alert.alert_id}"
    shown = person.get(path).text
    assert 'name="proof"' not in shown
    assert f"citywatch alerts ack {alert.alert_id}" in shown
    assert api.get(f"/v1{path}").json()["state"] == "open"


@pytest.mark.parametrize(
    ("headers", "change"),
    [
        ({}, "none"),
        ({}, "of another alert"),
        ({}, "of another person"),
        ({"Origin": "https://elsewhere.example"}, ""),
        ({"Origin": "null"}, ""),
        ({"Origin": "http://["}, ""),
        ({"Sec-Fetch-Site": "cross-site"}, ""),
        ({"Sec-Fetch-Site": "same-site"}, ""),
    ],
)
def test_a_form_that_was_not_made_here_does_nothing(
    api: Api, alert: Page, headers: dict[str, str], change: str
) -> None:
    person = Person(api.url)
    person.sign_in(api.tokens["responder"])
    path = f"/alerts/{alert.alert_id}"
    proof = proof_in(person.get(path).text)
    if change == "none":
        proof = ""
    elif change == "of another alert":
        other = page_of()
        api.table.put(other)
        proof = proof_in(person.get(f"/alerts/{other.alert_id}").text)
    elif change == "of another person":
        admin = Person(api.url)
        admin.sign_in(api.tokens["admin"])
        proof = proof_in(admin.get(path).text)

    refused = person.post(f"{path}/acknowledge", headers, proof=proof)

    assert refused.status_code == 403
    assert api.get(f"/v1{path}").json()["state"] == "open"


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://[v1.x]", "http://a]b"])
def test_an_origin_that_is_no_address_is_elsewhere(api: Api, origin: str) -> None:
    for path in ("/sign-in", "/sign-out", f"/alerts/{uuid4()}/acknowledge"):
        assert Person(api.url).post(path, {"Origin": origin}, token="x").status_code == 403


def test_behind_tls_the_cookie_goes_by_tls_alone(api: Api, routes: Routes) -> None:
    with served_securely(api, routes) as url:
        cookie = Person(url).sign_in(api.tokens["viewer"]).headers["Set-Cookie"]
    assert cookie.startswith("__Host-citywatch=")
    assert "; Secure" in cookie


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.mark.browser
@pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()),
    reason=f"needs {CHROMIUM} and {DRIVER} (Debian: chromium, chromium-driver)",
)
def test_a_telephone_at_night(api: Api, browser: WebDriver) -> None:
    """Follow the link of a real page, sign in, read, and press the button."""
    api.table.execute("UPDATE outbox SET decided_at = now() WHERE decided_at IS NULL")
    zone = f"zone-{uuid4().hex[:6]}"
    pages = [page_of(zone=zone, sensor=f"traffic-{number:04}") for number in range(3)]
    metrics = {"width": PHONE[0], "height": PHONE[1], "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    async def night() -> None:
        async with hooked() as (hook, url):
            routes = routes_to(url)
            grouped = type(routes.routes[0])("all", routes.routes[0].match, "webhook")
            config = PagerConfig(
                routes=type(routes)(
                    routes=(grouped,),
                    policies=routes.policies,
                    hooks=routes.hooks,
                    link=api.url,
                ),
                sender=SenderConfig(**QUICK),
            )
            async with running(Pager(api.dsn, api.schema, "live", config)):
                api.table.put(*pages)
                await eventually(lambda: bool(hook.arrivals))
                link = hook.arrivals[0].notice.link
                assert link is not None
                await asyncio.to_thread(look, link)
                await eventually(lambda: hook.arrivals[-1].notice.event == "acknowledge")

    def look(link: str) -> None:
        browser.get(link)
        picture("1-sign-in")
        browser.find_element(By.NAME, "token").send_keys(api.tokens["responder"])
        browser.find_element(By.CSS_SELECTOR, "button.main").click()
        wait(lambda: "3 alerts" in text())
        assert browser.current_url == link
        picture("2-group")
        browser.find_element(By.PARTIAL_LINK_TEXT, "traffic-0001").click()
        wait(lambda: "Why it paged" in text())
        assert "namespace" in browser.page_source
        picture("3-alert")
        browser.find_element(By.CSS_SELECTOR, "button.main").click()
        wait(lambda: "by a-responder" in text())
        picture("4-acknowledged")
        browser.get(link)
        browser.find_element(By.CSS_SELECTOR, "button.main").click()
        wait(lambda: not browser.find_elements(By.CSS_SELECTOR, "button.main"))
        picture("5-group-acknowledged")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= PHONE[0], "one need not scroll sideways"

    def text() -> str:
        return browser.find_element(By.TAG_NAME, "body").text

    def wait(condition: object) -> None:
        WebDriverWait(browser, WAIT_S, ignored_exceptions=(StaleElementReferenceException,)).until(
            lambda _: condition()
        )

    def picture(name: str) -> None:
        folder = os.environ.get("CITYWATCH_TEST_PICTURES")
        if folder:
            browser.save_screenshot(str(Path(folder) / f"{name}.png"))

    asyncio.run(night())
    faults = [one["message"] for one in browser.get_log("browser")]
    # The first answer is 401 on purpose, and asks for a token.
    assert [one for one in faults if "401" not in one and "favicon" not in one] == []
