//! Numbers beside their targets.

use anyhow::Result;
use serde::Serialize;

/// What a number should come to.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {bound}"),
            Self::AtMost(bound) => format!("<= {bound}"),
            Self::Below(bound) => format!("< {bound}"),
        }
    }
}

/// One number.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) dataset: &'static str,
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// None for what is told beside the others.
    pub(crate) target: Option<Target>,
}

/// All rows as a table.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let Row { dataset, name, value, unit, target } = row;
        let digits = if value.abs() < 20.0 { 3 } else { 0 };
        let mut line = format!("{dataset:<8} {name:<54} {value:>8.digits$} {unit:<9}");
        if let Some(target) = target {
            let verdict = if target.is_met(*value) { "met" } else { "missed" };
            line.push_str(&format!("{:<8} {verdict}", target.text()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// All rows as one line of JSON, each with its verdict.
pub(crate) fn json(rows: &[Row]) -> Result<String> {
    #[derive(Serialize)]
    struct Judged<'a> {
        #[serde(flatten)]
        row: &'a Row,
        met: Option<bool>,
    }
    let judged: Vec<Judged<'_>> = rows
        .iter()
        .map(|row| Judged { row, met: row.target.map(|target| target.is_met(row.value)) })
        .collect();
    Ok(serde_json::to_string(&judged)?)
}
