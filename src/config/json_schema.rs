//! The JSON Schema of the configuration file, for editors, made from the Rust types.
//! `conf/tollgate.schema.json` is its output, held equal by a test.

use schemars::generate::SchemaSettings;

use super::schema::Config;

/// The schema as JSON with a newline at its end.
pub fn json_schema() -> String {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Config>();
    schema.insert("title".to_owned(), "Configuration of tollgate".into());
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
