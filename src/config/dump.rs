//! stub
use super::Config;
/// stub
pub fn dump(_config: &Config) -> Result<String, String> {
    Err(String::new())
}
