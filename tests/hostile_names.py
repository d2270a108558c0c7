"""Names that somebody else gave to columns: every one must work, or be refused in one line, and none may be a path."""

NAMES = (
    *("$\\frac$", "_hidden"),
    *("/", "/etc/passwd", "/tmp/tablefold-escaped", "../up", "../../up", "a/b", "a/../../b", "./a", "a//b", "~/a", "~"),
    *("\\", "..\\up", "C:\\up", "C:", "file:///etc/passwd", "a\\b"),
    *(".", "..", "...", ".hidden", "a.b", "a..b", "weight.0", ".parquet", "000000.parquet", "000000"),
    *("\0", "a\0b", "a\nb", "\n", "\r\n", "a\tb", "\x1b[31mred\x1b[0m", "\x07", "\x7f", "\x85", "\u2028"),
    *("x" * 300, "é" * 200, "\N{PILE OF POO}", "日本語", "\u202egnp.exe", "\u200f", "\ufeff", "e\u0301", "é"),
    *("con", "CON", "nul", "aux", "COM1", "lpt1.txt", "-", "--", "-rf", "--out", "-1", "-v"),
    *("Name", "name", "NAME", " ", " a", "a ", "*", "?", "[a]", "^.*$", "^a$", "$HOME", "`id`", "%s", "{}", "{0}"),
    *("a,b", 'a"b', "'", '"', ";", "a;b", "|", "&", "<script>alert(1)</script>", "#", "=1+1", "%00", "%2e%2e%2fup"),
    *("line", "label", "value", "key", "count", "rank", "id", "train", "column0", "column1", "dense", "ids", "null"),
    *("__class__", "forward", "parameters", "None", "nan", "inf", "0", "1e5"),
)  # fmt: skip
