//! The JSON Schema of the configuration file, for editors, made from the Rust types.
//! `conf/tollgate.schema.json` is its output, held equal by a test.
//! Two things the types do not say: `none` stands for every optional value, and a variable for every number.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::schema::Config;

/// The schema as JSON with a newline at its end.
pub fn json_schema() -> String {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Config>();
    schema.insert("title".to_owned(), "Configuration of tollgate".into());
    let mut value = schema.to_value();
    widen(&mut value);
    let mut text = serde_json::to_string_pretty(&value).unwrap_or_default();
    text.push('\n');
    text
}

fn widen(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(widen),
        Value::Object(fields) => {
            fields.values_mut().for_each(widen);
            if let Some(Value::Array(forms)) = fields.get_mut("anyOf")
                && forms.iter().any(|form| *form == json!({"type": "null"}))
            {
                forms.push(json!({"const": "none"}));
            }
            // A field that is itself called `type` would hold an object here, not a word.
            let kind = fields.get("type").cloned().unwrap_or_default();
            let has =
                |word: &str| kind == word || kind.as_array().is_some_and(|words| words.iter().any(|one| one == word));
            if has("integer") || has("boolean") {
                let mut typed = serde_json::Map::new();
                for word in ["type", "format", "minimum", "maximum"] {
                    typed.extend(fields.shift_remove(word).map(|value| (word.to_owned(), value)));
                }
                let mut forms = vec![Value::Object(typed), json!({"type": "string", "pattern": r"^\$\{.+\}$"})];
                if has("null") {
                    forms.push(json!({"const": "none"}));
                }
                fields.insert("anyOf".to_owned(), Value::Array(forms));
            }
        }
        _ => {}
    }
}
