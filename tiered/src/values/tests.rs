use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array as _, BinaryViewArray};

use super::*;

/// The typed columns of one object whose row groups have these values.
fn typed(carried: ValueColumns, groups: &[&[&str]]) -> (Values, Vec<Vec<ArrayRef>>) {
    let mut values = Values::new(carried, NewColumns::Inferred);
    let groups = groups.iter().map(|group| {
        let raw = BinaryViewArray::from_iter_values(group.iter().map(|text| text.as_bytes()));
        if values.written.is_none() {
            values.infer(&raw);
        }
        values.fill(&raw)
    });
    let groups = groups.collect();
    (values, groups)
}

fn known(values: &Values) -> Vec<(&str, ValueType)> {
    let columns = values.known().as_slice().iter();
    columns.map(|column| (column.key.as_str(), column.value_type)).collect()
}

fn names(count: usize) -> ValueColumns {
    let column = |at| ValueColumn { key: format!("k{at}"), value_type: ValueType::Bigint };
    ValueColumns::new((0..count).map(column).collect()).unwrap()
}

#[test]
fn columns_come_in_order_of_appearance_with_the_narrowest_type() {
    use ValueType::{Bigint, Boolean, Double, Varchar};
    let group = [
        r#"{"late":null,"id":1,"ok":true,"name":"a","mixed":1}"#,
        r#"{"id":2,"price":2,"mixed":"x","nested":{"a":[1]},"late":3,"huge":9223372036854775808}"#,
        r#"{"price":2.5,"ok":false,"list":[1, 2]}"#,
    ];
    let (values, groups) = typed(ValueColumns::default(), &[&group]);
    let expected = [
        ("id", Bigint),
        ("ok", Boolean),
        ("name", Varchar),
        ("mixed", Varchar),
        ("price", Double),
        ("nested", Varchar),
        ("late", Bigint),
        ("huge", Double),
        ("list", Varchar),
    ];
    assert_eq!(known(&values), expected);
    assert_eq!(values.unfit(), 0);
    let columns = &groups[0];
    let ids: Vec<_> = columns[0].as_primitive::<Int64Type>().iter().collect();
    assert_eq!(ids, [Some(1), Some(2), None]);
    let oks: Vec<_> = columns[1].as_boolean().iter().collect();
    assert_eq!(oks, [Some(true), None, Some(false)]);
    let mixed: Vec<_> = columns[3].as_string::<i32>().iter().collect();
    assert_eq!(mixed, [Some("1"), Some("x"), None]);
    let prices: Vec<_> = columns[4].as_primitive::<Float64Type>().iter().collect();
    assert_eq!(prices, [None, Some(2.0), Some(2.5)]);
    assert_eq!(columns[5].as_string::<i32>().value(1), r#"{"a":[1]}"#);
    assert_eq!(columns[8].as_string::<i32>().value(2), "[1, 2]");
}

#[test]
fn later_ranges_add_columns_and_change_none() {
    let (first, _) = typed(ValueColumns::default(), &[&[r#"{"id":1,"n":1}"#]]);
    let second = [r#"{"new":true,"id":2}"#, r#"{"id":"three","n":1.5}"#, "no JSON", "[1]"];
    let (second, groups) = typed(first.known().clone(), &[&second]);
    let expected =
        [("id", ValueType::Bigint), ("n", ValueType::Bigint), ("new", ValueType::Boolean)];
    assert_eq!(known(&second), expected);
    let ids: Vec<_> = groups[0][0].as_primitive::<Int64Type>().iter().collect();
    assert_eq!(ids, [Some(2), None, None, None]);
    assert_eq!(groups[0][1].null_count(), 4);
    assert_eq!(second.unfit(), 3, "a record counts once");
}

#[test]
fn what_a_later_row_group_adds_begins_with_the_next_range() {
    let groups: [&[&str]; 3] = [&[r#"{"a":1}"#], &[r#"{"b":1}"#], &[r#"{"b":1.5,"a":0.5}"#]];
    let (mut values, groups) = typed(ValueColumns::default(), &groups);
    assert_eq!(known(&values), [("a", ValueType::Bigint), ("b", ValueType::Double)]);
    assert_eq!(values.written().len(), 1);
    assert!(groups.iter().all(|columns| columns.len() == 1));
    assert_eq!(values.unfit(), 1, "what has no column yet is not counted");
}

#[test]
fn nulls_and_repeated_keys_fit() {
    let group = [r#"{"a":1}"#, r#"{"a":"x","a":2}"#, r#"{"a":null}"#, "{}"];
    let (values, groups) = typed(names(0), &[&[r#"{"a":1}"#], &group]);
    let found: Vec<_> = groups[1][0].as_primitive::<Int64Type>().iter().collect();
    assert_eq!(found, [Some(1), Some(2), None, None]);
    assert_eq!(values.unfit(), 0);
    let mut values = Values::new(names(1), NewColumns::Inferred);
    let nulls = BinaryViewArray::from(vec![None, Some(&b"{}"[..])]);
    assert_eq!(values.fill(&nulls)[0].null_count(), 2);
    assert_eq!(values.unfit(), 0, "a record without a value has nothing that could fit");
}

#[test]
fn declared_columns_are_all_there_are_and_change_none() {
    let column = |key: &str, value_type| ValueColumn { key: key.to_owned(), value_type };
    let declared = [
        column("b", ValueType::Varchar),
        column("a", ValueType::Varchar),
        column("A", ValueType::Double),
    ];
    let mut columns = ValueColumns::new(vec![column("a", ValueType::Bigint)]).unwrap();
    assert_eq!(columns.declare(&declared), ["A"], "SQL would not tell it from `a`");
    let mut values = Values::new(columns, NewColumns::None);
    let raw = BinaryViewArray::from_iter_values([r#"{"a":1,"b":2,"c":3}"#, r#"{"a":"x"}"#]);
    let filled = values.fill(&raw);
    assert_eq!(known(&values), [("a", ValueType::Bigint), ("b", ValueType::Varchar)]);
    let numbers: Vec<_> = filled[0].as_primitive::<Int64Type>().iter().collect();
    assert_eq!(numbers, [Some(1), None]);
    let texts: Vec<_> = filled[1].as_string::<i32>().iter().collect();
    assert_eq!(texts, [Some("2"), None]);
    assert_eq!(values.unfit(), 1, "text is in no column of numbers, and `c` in none at all");
}

#[test]
fn numbers_beyond_a_type_and_halves_of_characters_do_not_fit() {
    let group = [r#"{"d":1e400}"#, r#"{"s":"\ud800"}"#, r#"{"b":9223372036854775808}"#];
    let (carried, _) = typed(ValueColumns::default(), &[&[r#"{"d":1.5,"s":"","b":1}"#]]);
    let (values, groups) = typed(carried.known().clone(), &[&group]);
    assert!(groups[0].iter().all(|column| column.null_count() == 3));
    assert_eq!(values.unfit(), 3);
}

#[test]
fn names_are_bounded_and_told_apart() {
    let long = "x".repeat(VALUE_KEY_BYTES_MAX + 1);
    let object = format!(
        r#"{{"":1,"{long}":1,"a\nb":1,"Offset":1,"value":2,"ID":3,"id":4,"json_value":5}}"#
    );
    let (values, _) = typed(ValueColumns::default(), &[&[&object]]);
    let columns = values.known().as_slice().iter();
    let found: Vec<_> = columns.map(|column| column_name(&column.key)).collect();
    assert_eq!(found, ["json_Offset", "json_value", "ID"]);
    assert_eq!(values.unfit(), 0);

    let mut full = names(VALUE_COLUMNS_MAX);
    assert_eq!(full.add("one more", ValueType::Bigint), None);
    assert_eq!(full.as_slice().len(), VALUE_COLUMNS_MAX);
}

#[test]
fn columns_that_no_archive_has_are_refused() {
    let column = |key: &str| ValueColumn { key: key.to_owned(), value_type: ValueType::Double };
    assert!(ValueColumns::new(vec![column("a"), column("b")]).is_some());
    for columns in [vec![column("a"), column("a")], vec![column("a"), column("A")]] {
        assert!(ValueColumns::new(columns).is_none());
    }
    assert!(ValueColumns::new(vec![column("")]).is_none());
    assert!(ValueColumns::new((0..65).map(|at| column(&format!("{at}"))).collect()).is_none());
}
