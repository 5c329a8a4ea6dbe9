"""What a person does to look at a run in MLflow's UI, with a picture of every page."""

from __future__ import annotations

from pathlib import Path

from tests.browser import Browser

ASSISTANT = "//*[contains(@data-component-id, 'assistant.chat_panel.close')]"  # opens by itself at the first visit
CURVES = "document.querySelectorAll('.js-plotly-plot .scatterlayer .trace path.js-line').length >= {count}"
CHARTS = "document.querySelector('.js-plotly-plot .main-svg')"  # a metric with one value has no curve
LOADED = "[...document.images].some(i => i.alt.endsWith({name!r}) && i.complete && i.naturalWidth >= {width})"


def open_experiment(browser: Browser, address: str, experiment: str) -> None:
    browser.open(f"{address}/#/experiments")
    browser.click(ASSISTANT)
    browser.click("//*[normalize-space(text())='Model training']")  # the UI begins with prompts and agents
    browser.click(f"//a[normalize-space()='{experiment}']")
    browser.click("//a[normalize-space()='Runs']")
    browser.find("//*[normalize-space()='Run Name']")


def open_run(browser: Browser, name: str) -> None:
    browser.click(f"//a[normalize-space()='{name}']")
    browser.find(f"//h2[normalize-space()='{name}']")
    browser.find("//*[normalize-space()='About this run']")


def open_metrics(browser: Browser, key: str, count: int) -> None:
    """Open the tab of charts; it is open when a metric has its chart and ``count`` curves are drawn."""
    open_tab(browser, "Model metrics")
    browser.find(f"//*[normalize-space()='{key}']")
    browser.wait_for_script(CURVES.format(count=count))


def open_system_metrics(browser: Browser, section: str) -> None:
    open_tab(browser, "System metrics")
    browser.find(f"//*[starts-with(normalize-space(), '{section}')]")
    browser.wait_for_script(CHARTS)


def open_picture(browser: Browser, folder: str, name: str, width: int = 1) -> None:
    """Open a picture among the artifacts; it is open when at least ``width`` pixels of it are there."""
    open_tab(browser, "Artifacts")
    browser.click(f"//*[normalize-space(text())='{folder}']")
    browser.click(f"//*[normalize-space(text())='{name}']")
    browser.wait_for_script(LOADED.format(name=name, width=width))


def open_tab(browser: Browser, name: str) -> None:
    browser.click(f"//button[@role='tab'][normalize-space()='{name}']")
    browser.find(f"//button[@role='tab'][@aria-selected='true'][normalize-space()='{name}']")


def take_screenshots(browser: Browser, address: str, experiment: str, run: str, folder: Path) -> list[Path]:
    """Take mlflow_experiment.png, mlflow_run.png (overview), mlflow_metrics.png and mlflow_system.png of a run."""
    open_experiment(browser, address, experiment)
    pictures = [browser.screenshot(folder / "mlflow_experiment.png")]
    open_run(browser, run)
    pictures.append(browser.screenshot(folder / "mlflow_run.png"))
    open_metrics(browser, "loss", 2)
    pictures.append(browser.screenshot(folder / "mlflow_metrics.png"))
    open_system_metrics(browser, "system/")
    pictures.append(browser.screenshot(folder / "mlflow_system.png"))
    return pictures
