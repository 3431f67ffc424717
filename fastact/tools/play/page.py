"""The page: widgets that choose an experiment, and buttons that run it. One `Page` for each browser tab."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bokeh.core.properties import Int
from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.model import DataModel
from bokeh.models import Button, CustomJS, Div, FileInput, NumericInput, Select, Spinner, TextInput, Toggle
from jinja2 import Template

from ...catalogue import ACTIVATIONS
from ...monitor import Report
from .experiment import (
    DATA,
    INITIALISATIONS,
    LIMITS,
    PRESETS,
    Experiment,
    Look,
    Preset,
    Settings,
    arguments_with_defaults,
    recorded,
)
from .formula import ALLOWED, LONGEST
from .pictures import DARK, LIGHT, Pictures, grid

FRAME = 60  # milliseconds that a picture stays at least
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
BATCH_SIZES = (1, 8, 32, 128, 600)
STEPS = (1, 5, 25, 100)

# Widgets stand in shadow trees, which the page's own rules do not reach, but its variables do.
_STYLE = """
:host { color: var(--ink); font: inherit; --color: var(--ink); }
label { color: var(--quiet); font-size: 13px; }
.bk-input, .bk-btn { min-height: 34px; font-size: 14px; color: var(--ink) !important;
  background-color: var(--field) !important; border-color: var(--line) !important; }
select.bk-input { appearance: auto !important; background-image: none !important; padding-right: 2px; }
::file-selector-button { color: var(--ink) !important; background-color: var(--field) !important; }
.bk-btn-primary { color: var(--on-accent) !important; background-color: var(--accent) !important; }
.bk-input:focus-visible, .bk-btn:focus-visible { outline: 3px solid var(--focus) !important; outline-offset: 1px; }
p, ul { margin: 0; padding: 0; }
li { list-style: none; }
.warn { color: var(--warn); }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: 14px; }
th { font-weight: 500; color: var(--quiet); }
th, td { padding: 3px 8px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; }
"""


class Clock(DataModel):
    """Which picture the browser was sent, and which it has shown."""

    sent = Int()
    shown = Int()


_PLAIN: dict[str, Any] = {"stylesheets": [_STYLE], "margin": 0}
_WIDE: dict[str, Any] = {**_PLAIN, "sizing_mode": "stretch_width"}
_ALONE = {"grid-column": "1 / -1"}
_WRAP = {"flex-wrap": "wrap", "gap": "8px"}


class Page:
    """What one browser tab shows: an experiment, or to begin with the statistics of a recorded run."""

    def __init__(self, document: Document, history: Sequence[tuple[int, Report]] = ()) -> None:
        self.document = document
        self.experiment: Experiment | None = None
        self.trains = self.filling = False
        self.state = ""
        self.clock = self._make_clock()
        self.pictures = Pictures(_STYLE)
        self.message, self.status = Div(**_WIDE), Div(**_WIDE, styles={"flex": "1 1 240px", "align-self": "center"})
        roots = {
            "dark": self._make_switch(),
            "run": self._make_buttons(),
            "stories": self._make_stories(),
            "settings": self._make_settings(),
            "message": self.message,
            "findings": self.pictures.findings,
            "panels": self.pictures.panels,
        }
        self._fill(Settings())
        self.reset()
        if history:
            self.show_history(history)
        document.title, document.theme = "fastact play", LIGHT
        document.template = Template(Path(__file__).with_name("page.html").read_text())
        for name, root in roots.items():
            root.name = name
            document.add_root(root)

    def _make_clock(self) -> Clock:
        """The browser asks for each picture when it has drawn the last. A slow one is sent no more than it can draw,
        and training rests while the tab is hidden or closed."""
        clock = Clock()
        code = f"requestAnimationFrame(() => setTimeout(() => {{ clock.shown = clock.sent }}, {FRAME}))"
        clock.js_on_change("sent", CustomJS(args={"clock": clock}, code=code))
        clock.on_change("shown", self._picture_shown)
        return clock

    # ---- widgets -----------------------------------------------------------------------------------------------------

    def _make_switch(self) -> Toggle:
        self.dark = Toggle(label="Dark", **_PLAIN)
        self.dark.on_change("active", self._theme_chosen)
        theme = "document.documentElement.dataset.theme = dark.active ? 'dark' : 'light'"
        self.dark.js_on_change("active", CustomJS(args={"dark": self.dark}, code=theme))
        wanted = "dark.active = matchMedia('(prefers-color-scheme: dark)').matches"
        self.document.js_on_event("document_ready", CustomJS(args={"dark": self.dark}, code=wanted))
        return self.dark

    def _make_buttons(self) -> row:
        # No label changes: Bokeh would draw the button anew, and the keyboard would lose its place. The tag makes the
        # clock a part of the document.
        self.train = Button(label="Train", button_type="primary", width=74, tags=[self.clock], **_PLAIN)
        rest, self.step, restart = (Button(label=label, width=74, **_PLAIN) for label in ("Pause", "Step", "Reset"))
        self.train.on_click(self.start)
        rest.on_click(self.pause)
        self.step.on_click(self.one_step)
        restart.on_click(self.reset)
        return row(self.train, rest, self.step, restart, self.status, sizing_mode="stretch_width", styles=_WRAP)

    def _make_stories(self) -> row:
        self.stories = [Button(label=preset.title, **_PLAIN) for preset in PRESETS]
        for button, preset in zip(self.stories, PRESETS, strict=True):
            button.on_click(lambda preset=preset: self.tell(preset))
        return row(*self.stories, sizing_mode="stretch_width", styles=_WRAP)

    def _make_settings(self) -> column:
        def select(title: str, options: Any) -> Select:
            options = [each if isinstance(each, tuple) else str(each) for each in options]
            return Select(title=title, options=options, **_WIDE)

        self.data = select("Data", DATA)
        self.activation = select("Activation", [(name, each.label) for name, each in ACTIVATIONS.items()])
        self.arguments: list[NumericInput] = []
        self.formula = TextInput(
            title="or a formula of x", placeholder="x * sigmoid(x)", max_length=LONGEST, styles=_ALONE, **_WIDE
        )
        titles = {"depth": "Depth (layers)", "width": "Width (units)", "seed": "Seed"}
        self.depth, self.width, self.seed = (
            Spinner(title=titles[name], low=low, high=high, **_WIDE) for name, (low, high) in LIMITS.items()
        )
        self.learning_rate = select("Learning rate", LEARNING_RATES)
        self.initialisation = select("Initialisation", INITIALISATIONS)
        self.batch_size = select("Batch size", BATCH_SIZES)
        self.pace = select("Steps per picture", STEPS)
        self.pace.value = str(STEPS[1])
        self.file = FileInput(title="Show a run's statistics (JSON)", accept=".json", styles=_ALONE, **_WIDE)
        self.activation.on_change("value", self._activation_chosen)
        self.learning_rate.on_change("value", self._learning_rate_chosen)
        self.file.on_change("value", self._file_chosen)
        again = (self.data, self.formula, self.depth, self.width, self.initialisation, self.batch_size, self.seed)
        for widget in again:
            widget.on_change("value", self._changed)
        self.above = (self.data, self.activation)
        self.below = (*again[1:4], self.learning_rate, *again[4:], self.pace, self.file)
        self.settings = column(*self.above, sizing_mode="stretch_width", styles={**grid(125), "gap": "8px 12px"})
        return self.settings

    def _fill(self, settings: Settings) -> None:
        """Put into the widgets, which then begin no experiment each."""
        self.filling = True
        for name in ("data", "activation", "formula", "depth", "width", "initialisation", "seed"):
            getattr(self, name).value = getattr(settings, name)
        self.learning_rate.value, self.batch_size.value = str(settings.learning_rate), str(settings.batch_size)
        self._fill_arguments(settings.activation, settings.arguments)
        self.filling = False

    def _fill_arguments(self, activation: str, values: Mapping[str, float]) -> None:
        self.arguments = [
            NumericInput(title=name, value=value, mode="int" if isinstance(value, int) else "float", **_WIDE)
            for name, value in {**arguments_with_defaults(activation), **values}.items()
        ]
        for each in self.arguments:
            each.on_change("value", self._changed)
        self.settings.children = [*self.above, *self.arguments, *self.below]

    def _chosen(self) -> Settings:
        numbers = (self.depth, self.width, self.seed, *self.arguments)
        for each in numbers:
            if each.value is None:
                raise ValueError(f"{each.title} needs a number")
        return Settings(
            self.data.value,
            self.activation.value,
            {each.title: each.value for each in self.arguments},
            self.formula.value.strip(),
            self.depth.value,
            self.width.value,
            float(self.learning_rate.value),
            self.initialisation.value,
            int(self.batch_size.value),
            self.seed.value,
        )

    # ---- what widgets do ---------------------------------------------------------------------------------------------

    def _changed(self, attr: str, old: object, new: object) -> None:
        if not self.filling:
            self.reset()

    def _activation_chosen(self, attr: str, old: object, new: str) -> None:
        if not self.filling:
            self.filling = True
            self.formula.value = ""
            self._fill_arguments(new, {})
            self.filling = False
            self.reset()

    def _learning_rate_chosen(self, attr: str, old: object, new: str) -> None:
        if self.experiment is not None:
            self.experiment.set_learning_rate(float(new))

    def _theme_chosen(self, attr: str, old: object, new: bool) -> None:
        self.document.theme = DARK if new else LIGHT

    def _file_chosen(self, attr: str, old: object, new: str) -> None:
        self.load(base64.b64decode(new).decode(errors="replace"))

    # ---- what buttons do ---------------------------------------------------------------------------------------------

    def tell(self, preset: Preset) -> None:
        """Start a story."""
        self._fill(preset.settings)
        self.reset()
        self.message.text = f"<p><b>{escape(preset.title)}.</b> {escape(preset.look_at)}</p>"
        self.start()

    def start(self) -> None:
        """Train, until something pauses it."""
        if self.experiment is not None and not self.trains:
            self.trains = True
            self.clock.sent += 1
            self._say()

    def pause(self) -> None:
        """Stop training, if it goes on."""
        self.trains = False
        self._say()

    def _say(self) -> None:
        self.status.text = f"<p>{'Training' if self.trains else 'Paused'}, {self.state}</p>"

    def _picture_shown(self, attr: str, old: int, new: int) -> None:
        if self.trains and new == self.clock.sent:  # else Train was pressed again in the meantime
            self._advance(int(self.pace.value))
            self.clock.sent += 1

    def one_step(self) -> None:
        """Take one step of training."""
        self._advance(1)

    def _advance(self, steps: int) -> None:
        if self.experiment is not None:
            self.experiment.train(steps)
            self._show(self.experiment, self.experiment.look())

    def _show(self, experiment: Experiment, look: Look) -> None:
        self.pictures.show(look, experiment)
        self.state = (
            f"step {look.step:,}: loss {look.train_loss:.3g} in training, {look.test_loss:.3g} in testing; "
            f"right {look.train_accuracy:.1%} and {look.test_accuracy:.1%}"
        )
        if math.isfinite(look.train_loss):
            self._say()
        else:
            self.pause()
            self._complain("the loss is no finite number any more: lower the learning rate, then Reset")

    def reset(self) -> None:
        """Begin an experiment with what is chosen."""
        self.pause()
        self.message.text = f"<p>A formula is made of {escape(ALLOWED)}.</p>" if self.formula.value else ""
        self.experiment = None
        try:
            experiment = Experiment(self._chosen())
        except ValueError as error:
            self._complain(str(error))
        else:
            look = experiment.look()
            with self.document.models.freeze():  # or Bokeh would go through all models after each new line
                self.pictures.begin(look.report, experiment)
            self._show(experiment, look)
            self.experiment = experiment
        self.train.disabled = self.step.disabled = self.experiment is None

    def load(self, text: str) -> None:
        """Show the statistics in a file's text."""
        try:
            self.show_history(recorded(text))
        except ValueError as error:
            self._complain(str(error))

    def show_history(self, history: Sequence[tuple[int, Report]]) -> None:
        """Show the statistics that a run has recorded, in place of an experiment."""
        self.pause()
        self.experiment = None
        self.train.disabled = self.step.disabled = True
        with self.document.models.freeze():
            self.pictures.show_history(history)
        first, last = history[0][0], history[-1][0]
        self.status.text = f"<p>{len(history)} reports of a recorded run, from step {first:,} to {last:,}</p>"
        self.message.text = "<p>These are recorded statistics. Reset goes back to training here.</p>"

    def _complain(self, text: str) -> None:
        self.message.text = f'<p><b class="warn">⚠ {escape(text)}.</b></p>'
