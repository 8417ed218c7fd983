"""`fantasytalking report-corpus`: writes an HTML report of a prepared corpus."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Writes one HTML file about a prepared corpus.

    {command} --corpus DIR [--input DIR] [--output FILE]

It has the counts by reason, the distribution of every measured value with its limits, and, with --input, frames of kept
and rejected clips.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, writes the report, and prints a summary."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--corpus", required=True, help="folder of a prepared corpus")
    parser.add_path("--input", help="folder of the videos that it was prepared from, to show frames; default: none")
    parser.add_path("--output", help="HTML file; default: report.html in the folder of the corpus")
    given = parser.parse_args(arguments)

    from fantasytalking.data.corpus_report import write_corpus_report

    print(write_corpus_report(given.corpus, given.input, given.output or given.corpus / "report.html"))
