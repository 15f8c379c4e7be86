//! The JSON Schema (2020-12) of the configuration file, for editors: generated from the table of keys.
//!
//! It accepts every file that `clb check` accepts, and not the other way round: rules that compare values, and the ranges
//! of durations, are beyond it.

use serde_json::{Map, Value as Json, json};

use super::{
    keys::{Absence, BACKEND, FILE, Key, Section, Value},
    reader::Seconds,
};

/// The whole schema.
pub fn schema() -> Json {
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of clb",
    });
    if let (Some(schema), Json::Object(file)) = (schema.as_object_mut(), mapping(&FILE)) {
        schema.extend(file);
    }
    schema
}

fn mapping(section: &'static Section) -> Json {
    let properties: Map<_, _> = section.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<_> =
        section.keys.iter().filter(|key| key.default == Absence::Required).map(|key| key.name).collect();
    let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if std::ptr::eq(section, &raw const BACKEND) {
        // A key without a value is as good as none.
        let not_null = |key: &str| json!({"required": [key], "properties": {key: {"not": {"type": "null"}}}});
        schema["oneOf"] = json!([not_null("cvm"), not_null("eni")]);
    }
    schema
}

fn property(Key { value, default, meaning, .. }: &Key) -> Json {
    let mut schema = match value {
        Value::Text => text(),
        Value::Texts => json!({"type": "array", "items": text(), "minItems": 1}),
        Value::Address => address(),
        Value::Addresses => json!({"type": "array", "items": address()}),
        Value::Prefixes => json!({"type": "array", "items": prefix()}),
        Value::Number(range) if range.start() == range.end() => json!({"enum": [range.start()]}),
        Value::Number(range) => json!({"type": "integer", "minimum": range.start(), "maximum": range.end()}),
        Value::OneOfNumbers(numbers) => json!({"enum": numbers}),
        Value::OneOf(words) => json!({"enum": words}),
        Value::Statuses => json!({
            "type": ["string", "integer"], "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$", "minimum": 100, "maximum": 599
        }),
        Value::Time(_) => json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}),
        Value::Mapping(section) => mapping(section),
        Value::List(section) => json!({"type": "array", "items": mapping(section)}),
    };
    let mut description = (*meaning).to_owned();
    if let Value::Time(range) = value {
        description.push_str(&format!(" {} to {}.", Seconds(*range.start()), Seconds(*range.end())));
    }
    match default {
        Absence::Required => {}
        Absence::Is(default) => {
            // Numbers are numbers, and everything else is text.
            schema["default"] = default.parse::<u64>().map_or_else(|_| json!(default), |number| json!(number));
        }
        Absence::Said(said) => description.push_str(&format!(" Default: {said}.")),
    }
    schema["description"] = json!(description);
    if *default == Absence::Required { schema } else { or_null(schema) }
}

/// An optional key may stand without a value.
fn or_null(mut schema: Json) -> Json {
    if let Some(Json::Array(values)) = schema.get_mut("enum") {
        values.push(Json::Null);
    } else if let Some(name) = schema.get("type").cloned() {
        let mut names = if let Json::Array(names) = name { names } else { vec![name] };
        names.push(json!("null"));
        schema["type"] = json!(names);
    }
    schema
}

fn text() -> Json {
    json!({"type": "string", "minLength": 1})
}

fn address() -> Json {
    json!({"type": "string", "pattern": format!("^({IPV4}|{IPV6})$")})
}

fn prefix() -> Json {
    json!({"type": "string", "pattern": format!("^({IPV4}|{IPV6})/[0-9]{{1,3}}$")})
}

const IPV4: &str = r"([0-9]{1,3}\.){3}[0-9]{1,3}";
const IPV6: &str = "[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*";
