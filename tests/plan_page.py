#!/usr/bin/env python3
"""The page and the picture of a plan: well formed, and in a browser (Chromium, where there is one) no wider than the window, light and dark.
Usage: plan_page.py FLEXGEN_BINARY [--keep FOLDER]   (FOLDER: the screenshots, to be looked at)"""

import html.parser
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Nesting(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            sys.exit(f"plan_page: </{tag}> ends nothing")

    def handle_startendtag(self, tag, attributes):
        pass


def chromium(browser, work, *arguments):
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--allow-file-access-from-files", f"--user-data-dir={work}/profile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def main():
    flexgen = os.path.abspath(sys.argv[1])
    work = tempfile.mkdtemp()
    try:
        plan = [flexgen, "plan", "--model", "opt-1.3b", "--hardware", "generic", "--cpu-memory", "2GiB", "--num-prompts", "64", "--disk-dir", work, "--disk-space", "4GiB", "--plot"]
        for name in ("plan.html", "plan.svg"):
            subprocess.run(plan + [f"{work}/{name}"], check=True, capture_output=True)
        xml.etree.ElementTree.parse(f"{work}/plan.svg")
        page = open(f"{work}/plan.html").read()
        nesting = Nesting()
        nesting.feed(page)
        if nesting.open != ["html"] and nesting.open:
            sys.exit(f"plan_page: not ended: {nesting.open}")
        for picture in re.findall(r"<svg.*?</svg>", page, re.S):
            xml.etree.ElementTree.fromstring(picture)
        browser = next((found for found in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if found), None)
        if not browser:
            print("plan_page: the files are well formed; no Chromium, so the page was not laid out")
            sys.exit(77)
        for width in (400, 1000):
            with open(f"{work}/frame.html", "w") as frame:
                frame.write(f"""<body><iframe id=f src=plan.html style="width:{width}px;height:3000px;border:0"></iframe><script>
f.onload = () => {{
  const root = f.contentDocument.documentElement, wide = [];
  for (const part of f.contentDocument.querySelectorAll("body *"))
    if (part.getBoundingClientRect().right > {width} + 1) wide.push(part.tagName + ":" + (part.textContent || "").slice(0, 40));
  document.body.textContent = "WIDTH=" + root.scrollWidth + " PAPER=" + getComputedStyle(f.contentDocument.body).backgroundColor + " WIDE=[" + wide.join(";") + "]";
}}</script>""")
            papers = {}
            for scheme in ("light", "dark"):
                dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
                dom = chromium(browser, work, "--virtual-time-budget=5000", *dark, "--dump-dom", f"file://{work}/frame.html")
                found = re.search(r"WIDTH=(\d+) PAPER=rgb\((\d+),.*?\) WIDE=\[(.*?)\]", dom, re.S)
                if not found or int(found[1]) > width or found[3]:
                    sys.exit(f"plan_page: at {width} px: {found[0] if found else dom[:500]}")
                papers[scheme] = int(found[2])
                picture = f"{work}/{width}-{scheme}.png"
                chromium(browser, work, f"--window-size={max(width, 500)},2200", f"--screenshot={picture}", *dark, f"file://{work}/plan.html")
                if not os.path.exists(picture) or os.path.getsize(picture) < 20000:
                    sys.exit(f"plan_page: no screenshot at {width} px")
            if papers["light"] < 200 or papers["dark"] > 60:
                sys.exit(f"plan_page: the paper's red is {papers}")
        chromium(browser, work, "--window-size=980,700", f"--screenshot={work}/svg.png", f"file://{work}/plan.svg")
        if "--keep" in sys.argv:
            for name in os.listdir(work):
                if name.endswith((".png", ".html", ".svg")):
                    shutil.copy(f"{work}/{name}", sys.argv[sys.argv.index("--keep") + 1])
        print("plan_page: laid out at 400 and 1000 px, nothing wider than the window")
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
