//! A file with a list of instances, as `instances` has it: read, and read again when it changes.
//! Looked at twice a second: that works on every file system, and with every way in which files are replaced. Not here: what follows from a list.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Address, Addresses, INSTANCES_MAX, Listed};
use crate::config;

/// How often the file is looked at.
pub(in crate::upstream) const EVERY: Duration = Duration::from_millis(500);

/// Bytes of the file: 4,096 instances in their long form fit twice.
const BYTES_MAX: u64 = 1 << 20;

/// A file that is looked at again and again.
#[derive(Debug)]
pub(in crate::upstream) struct Watched {
    path: PathBuf,
    /// What was taken last: its content, or why it can't be read.
    taken: Option<Result<String, String>>,
    /// What was seen last, and not taken: it may be half written.
    unsettled: Option<Result<String, String>>,
}

impl Watched {
    /// Nothing is known of the file yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), taken: None, unsettled: None }
    }

    /// Reads the file; a list, or what is wrong with it, where there is news. News is what two looks have seen: the first may have come
    /// while it was written, or between two steps of its replacement.
    pub fn look(&mut self) -> Option<Result<Addresses, String>> {
        let seen = content(&self.path);
        if self.taken.as_ref() == Some(&seen) {
            self.unsettled = None;
            return None;
        }
        if self.taken.is_some() && self.unsettled.as_ref() != Some(&seen) {
            self.unsettled = Some(seen);
            return None;
        }
        self.unsettled = None;
        let list = seen.clone().and_then(|text| read(&text));
        self.taken = Some(seen);
        Some(list.map_err(|why| format!("{}: {why}", self.path.display())))
    }

    /// Reads the file for the first time.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn first(mut self) -> Result<Addresses, String> {
        self.look().unwrap_or_else(|| Ok(Addresses::new()))
    }
}

fn content(path: &Path) -> Result<String, String> {
    let bytes = || {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is no file"));
        }
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = bytes().map_err(|error| format!("can't be read: {error}"))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("it has more than {BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// The instances of a list in YAML or JSON.
fn read(text: &str) -> Result<Addresses, String> {
    const SHAPE: &str = "no list of instances such as [10.0.0.1:80, {address: 10.0.0.2:80, weight: 2}]";
    // Nothing at all is no list: the file may be about to be written.
    let list: Option<Vec<config::Instance>> =
        serde_yaml::from_str(text).map_err(|error| format!("{SHAPE}: {error}"))?;
    let list = list.ok_or_else(|| format!("{SHAPE}: it is empty"))?;
    if list.len() > INSTANCES_MAX {
        return Err(format!("{} instances are more than {INSTANCES_MAX}", list.len()));
    }
    let (mut listed, mut seen) = (Addresses::new(), HashSet::new());
    for instance in &list {
        let written = &instance.address;
        let address = Address::parse(written).map_err(|why| format!("{why}; names are for `discover.dns`"))?;
        instance.check()?;
        if !seen.insert(address.clone()) {
            return Err(format!("`{written}` is there twice"));
        }
        listed.insert(Listed { address, weight: instance.weight, is_backup: instance.backup });
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn port_of(address: &Address) -> u16 {
        address.to_string().rsplit_once(':').unwrap().1.parse().unwrap()
    }

    fn ports(look: Option<Result<Addresses, String>>) -> Option<Vec<u16>> {
        look.map(|list| list.unwrap().iter().map(|listed| port_of(&listed.address)).collect())
    }

    #[test]
    fn lists_are_yaml_or_json_in_short_or_long_form() {
        let listed =
            |address: &str, weight, is_backup| Listed { address: Address::parse(address).unwrap(), weight, is_backup };
        let expected = Addresses::from([listed("10.0.0.1:80", 1, false), listed("10.0.0.2:80", 3, true)]);
        let yaml = "- 10.0.0.1:80\n- {address: 10.0.0.2:80, weight: 3, backup: true}\n";
        assert_eq!(read(yaml), Ok(expected.clone()));
        assert_eq!(
            read("[\"10.0.0.1:80\", {\"address\": \"10.0.0.2:80\", \"weight\": 3, \"backup\": true}]"),
            Ok(expected)
        );
        assert_eq!(read("[]"), Ok(Addresses::new()));
        for (wrong, says) in [
            ("", "list of instances"),
            ("10.0.0.1:80", "list of instances"),
            ("[10.0.0.1]", "no address"),
            ("[users.internal:80]", "discover.dns"),
            ("[10.0.0.1:0]", "a port is 1 to 65535"),
            ("[{address: 10.0.0.1:80, weight: 0}]", "1 to 100"),
            ("[{address: 10.0.0.1:80, wieght: 2}]", "wieght"),
            ("[10.0.0.1:80, 10.0.0.1:80]", "twice"),
        ] {
            let problem = read(wrong).unwrap_err();
            assert!(problem.contains(says), "{wrong}: {problem}");
        }
        let many: Vec<String> = (0..=INSTANCES_MAX).map(|n| format!("10.0.{}.{}:80", n / 250, n % 250)).collect();
        assert!(read(&format!("[{}]", many.join(", "))).unwrap_err().contains("more than 4096"));
    }

    #[test]
    fn a_file_that_takes_its_place_is_news_at_the_second_look() {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join("users.yaml"), folder.path().join("next"));
        fs::write(&path, "[127.0.0.1:1]").unwrap();
        let mut watched = Watched::new(&path);
        assert_eq!(ports(watched.look()), Some(vec![1]));
        assert_eq!(ports(watched.look()), None);
        fs::write(&next, "[127.0.0.1:2]").unwrap();
        fs::rename(&next, &path).unwrap();
        assert_eq!(ports(watched.look()), None);
        assert_eq!(ports(watched.look()), Some(vec![2]));
        fs::remove_file(&path).unwrap();
        assert!(watched.look().is_none(), "it may come back");
        assert!(watched.look().unwrap().unwrap_err().contains("can't be read"));
        assert!(watched.look().is_none(), "said once");
    }

    #[test]
    fn a_file_that_is_being_written_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.yaml");
        fs::write(&path, "- 127.0.0.1:1000\n").unwrap();
        let mut watched = Watched::new(&path);
        assert_eq!(ports(watched.look()), Some(vec![1000]));
        for half in ["", "- 127.0.0.1:2", "- 127.0.0.1:2000\n- 127.0.0.1:30"] {
            fs::write(&path, half).unwrap();
            assert_eq!(ports(watched.look()), None, "{half}");
        }
        fs::write(&path, "- 127.0.0.1:2000\n- 127.0.0.1:3000\n").unwrap();
        assert_eq!(ports(watched.look()), None);
        assert_eq!(ports(watched.look()), Some(vec![2000, 3000]));
    }

    #[test]
    fn what_is_too_large_or_no_file_is_bad() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.yaml");
        fs::write(&path, "#".repeat(BYTES_MAX as usize + 1)).unwrap();
        assert!(Watched::new(&path).look().unwrap().unwrap_err().contains("more than"));
        assert!(Watched::new(folder.path()).look().unwrap().is_err());
    }
}
