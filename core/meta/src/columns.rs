//! The typed columns that a topic declares for its archive, as its config spells them:
//! `id:bigint, price:double, note:varchar`.

use std::collections::BTreeSet;
use std::fmt;

/// The most columns that a topic may declare.
pub const DECLARED_COLUMNS_MAX: usize = 64;
/// The longest key of a declared column, in bytes.
pub const DECLARED_KEY_BYTES_MAX: usize = 128;
/// The longest declaration, in bytes: what the protocol takes as a config's value.
const DECLARATION_BYTES_MAX: usize = 4096;

/// What a declared column holds, under SQL's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColumnType {
    /// `true` and `false`.
    Boolean,
    /// Whole numbers of 64 bits.
    Bigint,
    /// Other numbers.
    Double,
    /// Text; of what is no string, its JSON.
    Varchar,
}

impl ColumnType {
    fn parse(word: &str) -> Option<Self> {
        [Self::Boolean, Self::Bigint, Self::Double, Self::Varchar]
            .into_iter()
            .find(|known| known.as_str() == word)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Bigint => "bigint",
            Self::Double => "double",
            Self::Varchar => "varchar",
        }
    }
}

/// One column that a topic declares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeclaredColumn {
    /// The key in the objects' top level.
    pub key: String,
    /// What the column holds.
    pub column_type: ColumnType,
}

/// The columns that a topic declares, in order. Prints as the config spells it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DeclaredColumns(Vec<DeclaredColumn>);

impl DeclaredColumns {
    /// Reads a declaration; an empty one declares nothing.
    ///
    /// # Errors
    /// What is wrong with it, and how to say it right.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > DECLARATION_BYTES_MAX {
            return Err(format!("longer than {DECLARATION_BYTES_MAX} bytes"));
        }
        let mut names = BTreeSet::new();
        let parts = text.split(',').map(str::trim);
        let columns: Vec<DeclaredColumn> =
            parts.filter(|part| !part.is_empty()).map(column).collect::<Result<_, _>>()?;
        if columns.len() > DECLARED_COLUMNS_MAX {
            return Err(format!("more than {DECLARED_COLUMNS_MAX} columns"));
        }
        for DeclaredColumn { key, .. } in &columns {
            if !names.insert(key.to_ascii_lowercase()) {
                let message = "stands there twice; SQL does not tell upper and lower case apart";
                return Err(format!("`{key}` {message}"));
            }
        }
        Ok(Self(columns))
    }

    /// The columns, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[DeclaredColumn] {
        &self.0
    }
}

/// One column, as `key:type`. The key may have colons of its own.
fn column(text: &str) -> Result<DeclaredColumn, String> {
    let Some((key, word)) = text.rsplit_once(':') else {
        return Err(format!("`{text}` is not KEY:TYPE, such as `id:bigint`"));
    };
    let (key, word) = (key.trim(), word.trim());
    let Some(column_type) = ColumnType::parse(word) else {
        return Err(format!("`{word}` is not a type: boolean, bigint, double or varchar"));
    };
    if key.is_empty() || key.len() > DECLARED_KEY_BYTES_MAX || key.chars().any(char::is_control) {
        let bounds = format!("1 to {DECLARED_KEY_BYTES_MAX} bytes without control characters");
        return Err(format!("`{key}` is not a key of {bounds}"));
    }
    Ok(DeclaredColumn { key: key.to_owned(), column_type })
}

impl fmt::Display for DeclaredColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, DeclaredColumn { key, column_type }) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{key}:{}", column_type.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_has_one_spelling() {
        let columns = DeclaredColumns::parse(" id : bigint, a:b:double ,ok:boolean,,n:varchar,");
        let columns = columns.unwrap();
        assert_eq!(columns.to_string(), "id:bigint,a:b:double,ok:boolean,n:varchar");
        assert_eq!(DeclaredColumns::parse(&columns.to_string()), Ok(columns.clone()));
        assert_eq!(columns.as_slice()[1].key, "a:b");
        assert_eq!(DeclaredColumns::parse("").unwrap(), DeclaredColumns::default());
    }

    #[test]
    fn what_no_archive_could_have_is_refused_with_the_reason() {
        let refused = |text: &str| DeclaredColumns::parse(text).unwrap_err();
        assert!(refused("id").contains("KEY:TYPE"));
        assert!(refused("id:int").contains("bigint"));
        assert!(refused(":bigint").contains("not a key"));
        assert!(refused("Id:bigint,iD:double").contains("twice"));
        assert!(refused(&format!("{}:bigint", "k".repeat(129))).contains("not a key"));
        let many: Vec<String> = (0..65).map(|at| format!("k{at}:bigint")).collect();
        assert!(refused(&many.join(",")).contains("more than 64"));
        assert!(refused(&"k:double,".repeat(500)).contains("longer"));
    }
}
