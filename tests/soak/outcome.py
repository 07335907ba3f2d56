"""The shape of a part of `make soak`. A part is a module with a TITLE and a function `run(scale)`: it starts what it needs, lasts for as
long as its task says times `scale` (1 in earnest, less to try it), and gives an Outcome. It prints nothing and writes no page."""

import dataclasses


@dataclasses.dataclass
class Outcome:
    """What a part found."""

    # (what must hold, what was seen, whether it held), for the page's table.
    checks: list = dataclasses.field(default_factory=list)
    # Markdown below that table: what was done, and figures that are no threshold.
    text: str = ""

    def check(self, what, seen, held):
        """Notes one threshold."""
        self.checks.append((what, str(seen), bool(held)))

    def failures(self):
        """The thresholds that did not hold, a line each."""
        return [f"{what}: {seen}" for what, seen, held in self.checks if not held]

    def markdown(self):
        """The part's section, without its title."""
        rows = "\n".join(f"| {what} | {seen} | {'yes' if held else '**no**'} |" for what, seen, held in self.checks)
        return f"| must hold | seen | held |\n|---|---|---|\n{rows}\n\n{self.text.strip()}".strip()
