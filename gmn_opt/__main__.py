"""`python -m gmn_opt` is the `gmn-opt` command."""

from gmn_opt.cli import app

if __name__ == "__main__":
    app(prog_name="gmn-opt")
