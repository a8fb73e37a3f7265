//! Tables without lines: aligned columns, upper-case headers, two spaces between, none at the end.

use super::style::Style;

const GAP: &str = "  ";

/// A column's header, and whether only the wide table has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    name: &'static str,
    wide: bool,
}

/// A column of every table.
pub(crate) const fn column(name: &'static str) -> Column {
    Column { name, wide: false }
}

/// A column of the wide table.
pub(crate) const fn wide(name: &'static str) -> Column {
    Column { name, wide: true }
}

/// A word in a table. Empty ones are shown as "-".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::styled(text, Style::Plain)
    }

    pub(crate) fn styled(text: impl AsRef<str>, style: Style) -> Self {
        let text = printable(text.as_ref());
        if text.is_empty() { Self { text: "-".into(), style: Style::Dim } } else { Self { text, style } }
    }

    /// A state in its colour.
    pub(crate) fn state(text: &str) -> Self {
        Self::styled(text, Style::of_state(text))
    }
}

/// `text` with control characters spelled out: what an agent passes on must not drive the terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Rows that have been pushed, and columns as wide as the widest cell so far.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Which columns are shown.
    shown: Vec<bool>,
    header: Vec<Cell>,
    widths: Vec<usize>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(columns: &[Column], wide: bool) -> Self {
        let shown: Vec<bool> = columns.iter().map(|column| wide || !column.wide).collect();
        let names = columns.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(column, _)| column.name);
        let header: Vec<Cell> = names.map(|name| Cell { text: name.to_owned(), style: Style::Bold }).collect();
        let widths = header.iter().map(width).collect();
        Self { shown, header, widths, rows: Vec::new() }
    }

    /// The column `name`, if it is shown, is no narrower than `width`.
    pub(crate) fn reserve(&mut self, name: &str, width: usize) {
        for (_, most) in self.header.iter().zip(&mut self.widths).filter(|(cell, _)| cell.text == name) {
            *most = (*most).max(width);
        }
    }

    /// Adds a row, with a cell for each column including those that are not shown.
    pub(crate) fn push(&mut self, cells: Vec<Cell>) {
        let row = self.fit(cells);
        self.rows.push(row);
    }

    /// Header and rows, cut at `width` if there is one.
    pub(crate) fn render(&self, color: bool, width: Option<usize>) -> String {
        std::iter::once(&self.header).chain(&self.rows).map(|row| self.line(row, color, width)).collect()
    }

    /// The header alone.
    pub(crate) fn render_header(&self, color: bool) -> String {
        self.line(&self.header, color, None)
    }

    /// One more row, which is not kept.
    pub(crate) fn render_row(&mut self, cells: Vec<Cell>, color: bool) -> String {
        let row = self.fit(cells);
        self.line(&row, color, None)
    }

    /// Drops the cells that are not shown; widens the columns.
    fn fit(&mut self, cells: Vec<Cell>) -> Vec<Cell> {
        debug_assert_eq!(cells.len(), self.shown.len(), "a cell for each column");
        let row: Vec<Cell> =
            cells.into_iter().zip(&self.shown).filter(|(_, shown)| **shown).map(|(cell, _)| cell).collect();
        for (most, cell) in self.widths.iter_mut().zip(&row) {
            *most = (*most).max(width(cell));
        }
        row
    }

    fn line(&self, row: &[Cell], color: bool, limit: Option<usize>) -> String {
        let mut line = String::new();
        let mut left = limit.unwrap_or(usize::MAX);
        let mut padding = 0;
        for (cell, column) in row.iter().zip(&self.widths) {
            if left <= padding {
                break;
            }
            left -= padding;
            line.push_str(&" ".repeat(padding));
            let text: String = cell.text.chars().take(left).collect();
            let used = text.chars().count();
            line.push_str(&cell.style.paint(&text, color));
            left -= used;
            padding = column - width(cell).min(*column) + GAP.len();
        }
        line.push('\n');
        line
    }
}

fn width(cell: &Cell) -> usize {
    cell.text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[column("NAME"), wide("ID"), column("STATE")], false);
        table.push(vec![Cell::new("h1"), Cell::new("0badcafe"), Cell::state("alive")]);
        table.push(vec![Cell::new("a-long-name"), Cell::new(""), Cell::state("")]);
        table
    }

    #[test]
    fn columns_are_aligned_and_lines_end_clean() {
        assert_eq!(sample().render(false, None), "NAME         STATE\nh1           alive\na-long-name  -\n");
    }

    #[test]
    fn colours_do_not_move_anything() {
        let plain = sample().render(false, None);
        let painted = sample().render(true, None);
        assert!(painted.contains("\x1b[32malive\x1b[0m"));
        let stripped: String =
            ["\x1b[32m", "\x1b[1m", "\x1b[2m", "\x1b[0m"].iter().fold(painted, |text, code| text.replace(code, ""));
        assert_eq!(stripped, plain);
    }

    #[test]
    fn a_narrow_terminal_cuts_lines() {
        let cut = sample().render(false, Some(15));
        assert_eq!(cut, "NAME         ST\nh1           al\na-long-name  -\n");
        assert_eq!(sample().render(false, Some(4)), "NAME\nh1\na-lo\n");
    }

    #[test]
    fn later_rows_keep_to_the_columns() {
        let mut table = sample();
        let row = table.render_row(vec![Cell::new("h2"), Cell::new("x"), Cell::new("down")], false);
        assert_eq!(row, "h2           down\n");
    }

    #[test]
    fn cells_cannot_drive_the_terminal() {
        assert_eq!(Cell::new("a\x1b[2Jb\nc").text, "a\\u{1b}[2Jb\\nc");
    }
}
