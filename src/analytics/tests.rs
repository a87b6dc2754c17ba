//! Questions to real databases: what is asked as on the command line, what is answered as in JSON.
//! The databases are filled by hand, so that the answers are known without the code that is tested.

pub mod database;
mod documented;
mod mariadb;
mod single;
