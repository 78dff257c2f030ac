"""The monitor page in a real browser, of a real daemon between a player of the demo song and a real JACK server."""

import io
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests import running
from tests.conftest import ROOT, need_program
from tests.osc_client import HERE
from tests.servers import JackServer, wait

MINUS = "\u2212"
PLAYER, DEVICE = "monitor-player", "system"
DESK, PHONE = {"width": 1440, "height": 1000}, {"width": 360, "height": 740}
PATIENCE = 20_000  # ms: this machine may be busy
GAIN, MUTE = "/streamsep/source/vocals/gain", "/streamsep/source/vocals/mute"

# `streamsep` whose network takes 30 ms longer from SIGUSR1 to SIGUSR2.
SLOWED = """
import signal, sys
from streamsep.cli import main
from streamsep.daemon import Daemon
from tests.slow import slow_down

build = Daemon._build

def slowed(self, device):
    live = build(self, device)
    delay = slow_down(live.separator)
    signal.signal(signal.SIGUSR1, lambda *_: delay.fill(30_000_000))
    signal.signal(signal.SIGUSR2, lambda *_: delay.fill(0))
    return live

Daemon._build = slowed
main(sys.argv[1:])
"""

expect.set_options(timeout=PATIENCE)


class Stage:
    """What plays, separates and serves."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind((HERE, 0))
            self.port = free.getsockname()[1]  # the same when the daemon comes again
        self.url = f"http://{HERE}:{self.port}/"
        self.jack = JackServer(folder / "jackd.log")
        self.player = self.daemon = None

    def start(self):
        self.jack.start(period=256, synchronous=False)
        self.start_player()
        self.start_daemon()
        for n in (0, 1):
            subprocess.run(["jack_connect", f"{PLAYER}:out_{n}", f"streamsep:input_{n + 1}"], check=True)

    def start_player(self, tries=3):
        command = [sys.executable, "bench/player.py", PLAYER]
        self.player = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.player.stderr:  # PortAudio has things to say first
            said.append(line)
            if line.startswith("ready"):
                return
        self.end_player()
        assert tries > 1, f"the player did not start: {''.join(said)}"
        self.start_player(tries - 1)  # a server on a busy machine lets a client wait too long now and then

    def end_player(self):
        if self.player:
            self.player.kill()
            self.player.communicate()
            self.player = None

    def start_daemon(self):
        where = ("--input", DEVICE, "--output", "none")  # one that a new server has, too
        self.daemon, self.said = running.start_daemon("--http", self.port, *where, code=SLOWED)
        self.osc = running.osc_port(self.said)

    def ask(self, address, *arguments):
        return running.ask(self.osc, address, *arguments)

    def end(self):
        running.end_all()
        self.end_player()
        self.jack.end()


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    need_program("jackd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JACK_DEFAULT_SERVER", os.environ.get("STREAMSEP_TEST_JACK", "streamsep-test"))
        patch.setenv("JACK_NO_AUDIO_RESERVATION", "1")
        stage = Stage(tmp_path_factory.mktemp("stage"))
        try:
            stage.start()
            yield stage
        finally:
            stage.end()


@pytest.fixture(scope="module")
def chromium():
    program = need_program("chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, stage):
    """Opens pages; at the end none of them may have complained, or asked anybody but the daemon for anything."""
    contexts, complaints, asked = [], [], []

    def open_page(viewport=DESK, scheme="dark", complains=False, **options):
        context = chromium.new_context(viewport=viewport, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        if not complains:
            page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.answer = page.goto(stage.url)
        expect(page.locator("#state")).to_contain_text(re.compile("running|late"))
        expect(page.locator(".channel")).to_have_count(4)
        return page

    yield open_page
    for context in contexts:
        context.close()
    stage.ask("/streamsep/panic", 0)
    stage.ask("/streamsep/bypass", 0)
    stage.ask(MUTE, 0)
    stage.ask(GAIN, 0.0)
    assert complaints == []
    assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {f"{HERE}:{stage.port}"}


def card(page, signal):
    return page.locator(f'.channel[data-signal="{signal}"]')


def level(page, signal="vocals"):
    return card(page, signal).locator(".value input").first


def pixels(locator):
    """What is drawn on a canvas, [shape=(height, width, 3)]."""
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB"), float)


# ----------------------------------------------------------------------------------------------------------------- looks


def test_the_page_comes_with_its_policy_and_what_it_is_about(visit, stage):
    page = visit()
    assert page.url == f"{stage.url}monitor/"
    assert "default-src 'none'" in page.answer.headers["content-security-policy"]
    assert re.search(rf"monitor page: {stage.url}monitor/\n", stage.said)
    assert page.locator(".channel h2 .name").all_inner_texts() == ["Input", "Vocals", "Accompaniment", "Output"]
    total = stage.ask("/streamsep/latency/total")[0]
    expect(page.locator("#total")).to_have_text(f"{total:.1f}")
    parts = dict(zip(*(page.locator(f"#latency {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert parts["algorithmic"] == "16.0 ms"
    assert parts["buffering"] == f"{stage.ask('/streamsep/latency/buffering')[0]:.1f} ms"
    expect(page.locator("#engine")).to_contain_text("live on CPU")
    expect(page.locator("#engine")).to_contain_text("compiled, no Python")
    expect(page.locator("#steps")).to_contain_text("8.0 ms")


def test_an_inline_script_does_not_run(visit):
    page = visit(complains=True)  # the browser says that it refused
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    assert page.evaluate("window.ran") is None


def test_spectrograms_show_the_music_and_move(visit):
    page = visit()
    for name in ("input", "vocals", "accompaniment"):
        canvas = card(page, name).locator("canvas")
        wait(lambda canvas=canvas: pixels(canvas)[:, -100:].std() > 20, lambda name=name: f"{name} is blank", 20)
    canvas = card(page, "input").locator("canvas")
    before = pixels(canvas)
    wait(lambda: abs(pixels(canvas) - before).mean() > 5, lambda: "it stands still")
    drawn = pixels(canvas)[:, -100:]
    assert drawn[-60:].mean() > drawn[:20].mean()  # low notes stand below, and are the louder ones


def test_where_motion_is_not_wanted_nothing_scrolls(visit):
    count = """() => { const draw = CanvasRenderingContext2D.prototype.drawImage; window.drawn = 0;
        CanvasRenderingContext2D.prototype.drawImage = function (...a) { window.drawn++; return draw.apply(this, a); }; }"""
    page = visit(reduced_motion="reduce")
    expect(card(page, "input").locator(".meter")).to_have_attribute("aria-valuetext", re.compile("peak"))
    page.evaluate(count)
    page.wait_for_timeout(3000)
    assert 0 < page.evaluate("window.drawn") <= 3 * 7  # three pictures, twice a second
    canvas = card(page, "input").locator("canvas")
    wait(lambda: pixels(canvas).std() > 20, lambda: "it is blank")


def test_meters_move_and_tell_screen_readers(visit):
    page = visit()
    for name in ("input", "accompaniment", "mix"):
        meter = card(page, name).locator(".meter")
        expect(meter).to_have_attribute("aria-valuetext", re.compile(r"-\d+ dB peak"))
        assert "inset" in meter.locator(".peak").get_attribute("style")
    histogram = page.locator("#histogram")
    expect(histogram).to_have_attribute("aria-label", re.compile(r"\d{2,} hops in the last minute, \d+ late or longer"))
    assert pixels(histogram).std() > 5
    assert pixels(page.locator("#timeline")).std() > 5


def test_everything_that_can_be_used_has_a_name(visit):
    nameless = visit().evaluate("""() => [...document.querySelectorAll("button, input, select, canvas, [role]")]
        .filter((e) => e.offsetParent && !["status", "alert", "group"].includes(e.role))
        .filter((e) => !(e.ariaLabel || e.innerText?.trim() || e.labels?.[0]?.innerText.trim()))
        .map((e) => e.outerHTML)""")
    assert nameless == []


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_phone_shows_all_of_it(visit, scheme, tmp_path):
    page = visit(PHONE, scheme, device_scale_factor=2, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    for button in page.locator(".top button:visible, .buttons button").all():
        box = button.bounding_box()
        assert box["height"] >= 44
        assert box["x"] + box["width"] <= PHONE["width"]
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    picture = Image.open(tmp_path / "phone.png").convert("L")
    assert picture.width == 2 * PHONE["width"]
    ground = picture.getpixel((4, picture.height - 4))
    assert ground < 60 if scheme == "dark" else ground > 200
    card(page, "vocals").get_by_text("Mute").tap()
    expect(card(page, "vocals").get_by_text("Mute")).to_have_attribute("aria-pressed", "true")


# ----------------------------------------------------------------------------------------------------------------- steers


def test_a_dragged_fader_moves_the_engines_gain(visit, stage):
    page = visit()
    throw = page.get_by_role("slider", name="Gain of vocals")
    box = throw.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    wait(lambda: -30 < stage.ask(GAIN)[0] < -10, lambda: f"gain {stage.ask(GAIN)}")
    gain = stage.ask(GAIN)[0]
    expect(level(page)).to_have_value(f"{gain:.1f}".replace("-", MINUS))
    throw.dblclick()
    wait(lambda: stage.ask(GAIN) == [0.0])


def test_a_level_can_be_typed(visit, stage):
    page = visit()
    level(page).fill("-4,5")
    level(page).press("Enter")
    wait(lambda: abs(stage.ask(GAIN)[0] + 4.5) < 0.01)
    level(page).fill("loud")
    level(page).press("Enter")
    expect(level(page)).to_have_value(f"{MINUS}4.5")


def test_the_keyboard_does_all_of_it(visit, stage):
    page = visit()
    page.keyboard.press("1")
    for key in ("ArrowDown", "ArrowDown", "Shift+ArrowUp"):
        page.keyboard.press(key)
    wait(lambda: abs(stage.ask(GAIN)[0] + 1.9) < 0.01, lambda: f"gain {stage.ask(GAIN)}")
    page.keyboard.press("Home")
    wait(lambda: stage.ask(GAIN) == [-90.0])
    expect(page.get_by_role("slider", name="Gain of vocals")).to_have_attribute("aria-valuetext", "silent")
    for key, address in (
        ("m", MUTE),
        ("s", "/streamsep/source/vocals/solo"),
        ("b", "/streamsep/bypass"),
        ("p", "/streamsep/panic"),
    ):
        page.keyboard.press(key)
        wait(lambda address=address: stage.ask(address) == [1], lambda key=key: f"{key} did nothing")
        pressed = page.locator(f'[aria-keyshortcuts="{key.upper()}"][aria-pressed="true"]')
        expect(pressed).to_have_count(1)
        page.keyboard.press(key)
        wait(lambda address=address: stage.ask(address) == [0])
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("m")  # not behind the overlay
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert stage.ask(MUTE) == [0]


def test_focus_is_seen(visit):
    page = visit()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"


def test_others_moves_are_seen_by_all_pages(visit, stage):
    pages = visit(), visit()
    stage.ask(GAIN, -12.0)
    stage.ask("/streamsep/wet", 0.5)
    stage.ask("/streamsep/panic", 1)
    for page in pages:
        expect(level(page)).to_have_value(f"{MINUS}12.0")
        expect(page.get_by_role("slider", name="Wet")).to_have_attribute("aria-valuetext", "50 percent wet")
        expect(page.locator('.banner[data-name="panic"]')).to_contain_text("Panic: nothing goes out")
    pages[0].locator("#panic").click()
    expect(pages[1].locator('.banner[data-name="panic"]')).to_have_count(0)
    stage.ask("/streamsep/wet", 1.0)


def test_devices_are_there_to_choose_from_and_a_wrong_one_is_refused_with_a_reason(visit):
    page = visit()
    menu = page.get_by_label("From")
    expect(menu).to_have_value(DEVICE)
    menu.focus()
    expect(menu.locator("option").filter(has_text="system, JACK")).to_have_count(1, timeout=3 * PATIENCE)
    page.evaluate("import('/monitor/monitor.js').then((m) => m.link.send('/model', 's', 'nowhere'))")
    expect(page.locator("#toast")).to_contain_text("nowhere")


# ---------------------------------------------------------------------------------------------------------------- listens

LEVEL = "import('/monitor/monitor.js').then((m) => m.listener.level())"


def test_input_and_sources_are_heard_here_with_their_delay_said(visit, stage):
    page = visit()
    for name in ("input", "accompaniment"):
        card(page, name).get_by_text("Listen").click()
        expect(page.locator("#listening")).to_contain_text(re.compile(r"About \d+ ms late: \d+ separation"))
        wait(lambda: page.evaluate(LEVEL) > 0.003, lambda name=name: f"{name} is silent", 20)
    stage.ask("/streamsep/source/accompaniment/mute", 1)
    wait(lambda: page.evaluate(LEVEL) < 1e-4, lambda: "a muted source is heard", 20)
    stage.ask("/streamsep/source/accompaniment/mute", 0)
    page.keyboard.press("0")
    page.keyboard.press("l")
    wait(lambda: page.evaluate(LEVEL) > 0.003, seconds=20)
    page.get_by_text("Stop").click()
    expect(page.locator("#heard")).to_be_hidden()
    wait(lambda: running.status(stage.osc)["osc.streams"] == 0)


# --------------------------------------------------------------------------------------------------------- what goes wrong


def test_late_sound_is_said(visit, stage):
    page = visit()
    stage.daemon.send_signal(signal.SIGUSR1)
    # A hop of a busy machine may be late by itself before the signal is heard, and the page is quick to say so.
    wait(lambda: stage.ask("/streamsep/stats/bridged")[0] > 0, lambda: "no hop was bridged", 20)
    expect(page.locator('.banner[data-name="late"]')).to_contain_text(re.compile(r"Sound is late: \d+ hops"))
    expect(page.locator("#state")).to_contain_text("late")
    expect(page.locator("#events")).to_contain_text(re.compile(r"\d+ late hops"))
    expect(page.locator("#histogram")).not_to_have_attribute("aria-label", re.compile(", 0 late or longer"))
    stage.daemon.send_signal(signal.SIGUSR2)


def test_a_gpu_that_is_asked_for_and_not_used_is_said(visit):
    """The page's own part: what it is told here is what a daemon tells whose network fell back to the CPU."""
    page = visit()
    expect(page.locator('.banner[data-name="gpu"]')).to_have_count(0)
    facts = page.evaluate("import('/monitor/monitor.js').then((m) => m.facts)")
    told = facts | {"wants_gpu": True, "notes": ["cuda: libcudart.so.13 is missing"]}
    page.evaluate("(told) => import('/monitor/monitor.js').then((m) => m.link.tell('setup', told))", told)
    expect(page.locator('.banner[data-name="gpu"]')).to_contain_text("The GPU is not used: the network runs on the CPU.")
    expect(page.locator('.banner[data-name="gpu"]')).to_contain_text("libcudart.so.13 is missing")


def test_a_lost_device_is_said_and_its_return(visit, stage):
    page = visit()
    stage.end_player()
    stage.jack.end()
    expect(page.locator('.banner[data-name="device"]')).to_contain_text("No sound: the device is gone")
    expect(page.locator("#state")).to_contain_text("device lost")
    stage.jack.start(period=256, synchronous=False)
    expect(page.locator('.banner[data-name="device"]')).to_have_count(0, timeout=3 * PATIENCE)
    expect(page.locator("#events")).to_contain_text("device lost")


def test_a_daemon_that_is_gone_is_said_and_found_again(visit, stage):
    page = visit(complains=True)  # the browser tells of each connection that fails
    running.stop(stage.daemon)
    expect(page.locator('.banner[data-name="gone"]')).to_contain_text("The daemon does not answer")
    stage.start_daemon()
    expect(page.locator('.banner[data-name="gone"]')).to_have_count(0, timeout=60_000)
    expect(page.locator("#state")).to_contain_text(re.compile("running|late"))
    stage.ask(GAIN, -3.0)
    expect(level(page)).to_have_value(f"{MINUS}3.0")
