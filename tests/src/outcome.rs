//! What a run of `millstream` came to.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Standard output of a run that succeeded.
///
/// # Errors
/// It did not, with what it said; or its output is not UTF-8.
pub fn success(output: &Output) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}; stderr:\n{stderr}", output.status);
    String::from_utf8(output.stdout.clone()).context("stdout is not UTF-8")
}

/// Standard error of a run that ended with this exit code.
///
/// # Errors
/// It ended otherwise, with what it said.
pub fn failure(output: &Output, code: i32) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let ended = output.status;
    ensure!(
        ended.code() == Some(code),
        "expected exit code {code}, got {ended}; stdout:\n{stdout}\nstderr:\n{stderr}"
    );
    Ok(stderr)
}

/// Every line as a JSON value.
///
/// # Errors
/// A line is none.
pub fn json_lines(text: &str) -> Result<Vec<Value>> {
    let parse = |line: &str| {
        serde_json::from_str(line).with_context(|| format!("this line is no JSON: {line}"))
    };
    text.lines().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn ended(code: i32) -> Output {
        let status = ExitStatus::from_raw(code << 8);
        Output { status, stdout: b"{\"a\":1}\n".to_vec(), stderr: b"why\n".to_vec() }
    }

    #[test]
    fn success_and_failure_are_not_taken_for_one_another() {
        assert_eq!(success(&ended(0)).unwrap(), "{\"a\":1}\n");
        assert!(success(&ended(1)).unwrap_err().to_string().contains("why"));
        assert_eq!(failure(&ended(1), 1).unwrap(), "why\n");
        assert!(failure(&ended(0), 1).is_err());
        assert!(failure(&ended(2), 1).is_err());
    }

    #[test]
    fn lines_are_json_or_an_error() {
        assert_eq!(json_lines("1\n{}\n").unwrap(), [1.into(), serde_json::json!({})]);
        assert!(json_lines("1\ntopic a\n").is_err());
    }
}
