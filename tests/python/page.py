"""The page as people use it: URL, URL of an instance with a token, the token, a folder for pictures, and how many
seconds to wait for those (none by default)."""

import json
import pathlib
import sys
import time
import urllib.request

from browser import Browser

# Milliseconds that an interaction with 10,000 clients may take until it is painted, on a slow machine that does
# other things as well.
QUICK = 300

GRID = "document.getElementById('grid')"
SHOWN = "[...document.querySelectorAll('.rows .line:not([hidden])')]"
# Relative luminance and contrast as WCAG defines them, of a node's text against the surface below it.
CONTRAST = """((selector) => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  let node = document.querySelector(selector);
  const front = light(rgb(getComputedStyle(node).color).slice(0, 3));
  let ground;
  do { ground = rgb(getComputedStyle(node).backgroundColor); node = node.parentElement; }
  while (node && ground.length === 4 && ground[3] === 0);
  const back = light(ground.slice(0, 3));
  return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
})"""


def post(url, path, body):
    data = json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data), timeout=10) as answer:
        return json.load(answer)


def quick(page, action):
    took = page.timed(action)
    assert took < QUICK, f"{took:.0f} ms: {action}"


def search(page, words, expected):
    quick(
        page,
        "const box = document.getElementById('search');"
        f"box.value = {words!r}; box.dispatchEvent(new Event('input'))",
    )
    page.until(f"document.getElementById('count').textContent === {expected!r}", 5)


def finds(page, url):
    page.until("document.getElementById('count').textContent === '10,000 clients'")
    page.until("document.getElementById('live').dataset.live === 'on'")
    rows = page.js("document.querySelectorAll('.rows .line').length")
    assert 10 < rows < 80, f"{rows} rows in the document"
    first = page.js(f"{SHOWN}.sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)[0].dataset.status")
    assert first == "failing", f"{first} comes first"

    search(page, "AccessDenied", "2 of 10,000 clients")
    search(page, "eu/ nothing has this", "0 of 10,000 clients")
    assert page.text("#empty") == "No client matches."
    search(page, "", "10,000 clients")
    button = "document.querySelector('.filter[data-status=missing]')"
    quick(page, f"{button}.click()")
    assert page.text("#count") == "2 of 10,000 clients"
    assert page.js(f"{button}.ariaPressed") == "true"
    quick(page, f"{button}.click()")
    for column in ["lag", "size", "client", "error"]:
        quick(page, f"document.querySelector('.head .c-{column} button').click()")
    assert page.js("document.querySelector('.head .c-error').ariaSort") == "descending"

    for share in [0.5, 1]:
        quick(page, f"{GRID}.scrollTop = {GRID}.scrollHeight * {share}")
    page.until(f"{SHOWN}.some((row) => row.ariaRowIndex === '10001')", 5)
    quick(page, f"{GRID}.scrollTop = 0")

    post(url, "/api/databases", {"clientId": "just-made"})
    page.until("document.getElementById('count').textContent === '10,001 clients'", 5)


def acts(page):
    search(page, "just-made", "1 of 10,001 clients")
    page.js(f"{GRID}.focus()")
    page.key("ArrowDown")
    active = page.js(f"document.getElementById({GRID}.getAttribute('aria-activedescendant')).textContent")
    assert "just-made" in active, active
    page.key("Enter")
    page.until("document.getElementById('detail').open", 5)
    assert page.text("#detail-name") == "just-made"
    page.until("document.getElementById('moments').textContent.startsWith('2 moments, from')", 5)
    for button, expected in [
        ("sync", "Synced: transaction 7"),
        ("snapshot", "Snapshot stored: transaction 8"),
        ("pause", "Paused"),
    ]:
        page.js(f"document.getElementById({button!r}).click()")
        page.until(f"document.getElementById('outcome').textContent.startsWith({expected!r})", 5)
    page.until("document.getElementById('pause').textContent === 'Resume'", 5)
    assert page.js("document.getElementById('sync').disabled")
    page.js("document.getElementById('pause').click()")
    page.until("document.getElementById('pause').textContent === 'Pause'", 5)
    page.key("Escape")
    page.until("!document.getElementById('detail').open", 5)
    search(page, "", "10,001 clients")


def is_accessible(page):
    named = {"button", "textbox", "searchbox", "grid", "columnheader", "dialog", "heading", "link"}
    for node in page.call("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        if role in named and not node.get("ignored"):
            assert node.get("name", {}).get("value"), f"a {role} without a name: {node}"


def is_readable(page, selectors):
    for selector in selectors:
        contrast = page.js(f"{CONTRAST}({selector!r})")
        assert contrast >= 4.5, f"{selector}: contrast {contrast:.2f}"


def looks(page, pictures):
    texts = [".name", "#instance", ".c-sync span", ".line[data-status=failing] .why", ".filter .n", ".head button"]
    page.js("document.querySelector('.head .c-status button').click()")
    page.js("document.activeElement.blur()")
    for dark in [False, True]:
        scheme = "dark" if dark else "light"
        page.window(1280, 800, dark)
        page.until(f"{SHOWN}.length > 15", 5)
        is_readable(page, texts)
        page.picture(pictures / f"wide-{scheme}.png")
        page.js(f"{SHOWN}.find((row) => row.dataset.status === 'failing').click()")
        page.until("document.getElementById('detail').open", 5)
        page.until("!document.getAnimations().length", 5)
        is_readable(page, ["#detail-path", "#detail-error", "#sync", "dt", ".scale span"])
        page.picture(pictures / f"detail-{scheme}.png")
        page.key("Escape")
        page.window(390, 844, dark, phone=True)
        page.until(f"{SHOWN}.length > 5", 5)
        wide = page.js("document.documentElement.scrollWidth")
        assert wide <= 390, f"{wide} points wide on a phone"
        is_readable(page, [".name", ".status", ".c-sync span"])
        page.picture(pictures / f"phone-{scheme}.png")


def asks_for_token(browser, url, token):
    page = browser.open(url)
    page.until("document.getElementById('ask').open", 10)
    for text, then in [
        ("not the token", "!document.getElementById('ask-error').hidden"),
        (token, "document.getElementById('count').textContent === '1 client'"),
    ]:
        page.js(
            f"document.getElementById('token').value = {text!r};"
            "document.querySelector('#ask-form button').click()"
        )
        page.until(then, 10)
    page.until("document.getElementById('live').dataset.live === 'on'", 10)
    assert not page.js("document.getElementById('ask').open")
    # What is refused without the token is a complaint of the browser's own.
    others = [c for c in page.complaints if "401" not in json.dumps(c)]
    assert not others, others
    page.close()


def main():
    url, guarded, token, pictures, *pause = sys.argv[1:]
    with Browser() as browser:
        page = browser.open(url)
        page.window(1280, 800, False)
        finds(page, url)
        acts(page)
        is_accessible(page)
        # For pictures that show how a while has been.
        time.sleep(float(pause[0]) if pause else 0)
        looks(page, pathlib.Path(pictures))
        assert not page.complaints, page.complaints
        assert page.hosts == {url.split("/")[2]}, page.hosts
        page.close()
        asks_for_token(browser, guarded, token)


if __name__ == "__main__":
    main()
