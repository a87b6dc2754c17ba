//! What an error of a MySQL or MariaDB server means for the batch: later, an operator first, or never.
//! "Never" (the row is at fault) is the default, so that an unknown error can't block the log for ever: the writer finds
//! the row and counts it. Error numbers: the servers' `mysqld_error.h`.

use super::super::Failure;

/// What to do about a server's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Server, lock or disk: the same batch may pass later, over a new connection.
    Away,
    /// Password, rights, database or columns: an operator has to act.
    Denied,
    /// The row, and no other, is at fault.
    Row,
}

/// The meaning of a server's error number.
pub fn meaning(code: u16) -> Meaning {
    match code {
        // Who may do what: access, host, password, plugins, expired accounts, missing database, unknown column, rights.
        1044 | 1045 | 1049 | 1054 | 1095 | 1129 | 1130 | 1136 | 1142 | 1143 | 1227 | 1251 | 1275 | 1370 | 1524
        | 1698 | 1820 | 1862 | 3118 | 3159 | 4151 => Meaning::Denied,
        // Files and disks: can't create, write or read, disk full, table full, crashed, engine errors, out of memory; tables that a
        // killed server has half made.
        1004
        | 1005
        | 1015..=1017
        | 1020
        | 1021
        | 1023
        | 1024
        | 1026
        | 1028
        | 1030
        | 1033..=1035
        | 1037
        | 1038
        | 1041
        | 1114
        | 1135
        | 1194
        | 1195
        | 1696
        | 1712
        | 1932
        | 3675 => Meaning::Away,
        // Connections: too many, bad handshake, shutdown, network, killed, users' limits.
        1040
        | 1042
        | 1043
        | 1047
        | 1053
        | 1077
        | 1078
        | 1079
        | 1152
        | 1156..=1161
        | 1184
        | 1203
        | 1226
        | 1317
        | 1927
        | 1968
        | 3169
        | 4031 => Meaning::Away,
        // Locks, deadlocks, time limits, read-only and failing-over servers.
        1099
        | 1100
        | 1180
        | 1205..=1208
        | 1213
        | 1223
        | 1290
        | 1637
        | 1689
        | 1792
        | 1836
        | 1969
        | 3024
        | 3058
        | 3572 => Meaning::Away,
        // Tables that are missing are created with the next connection; statements are prepared there again.
        1146 | 1243 | 1412 | 1461 | 1615 | 1665 => Meaning::Away,
        // Group replication: not ready, or the transaction lost.
        3098 | 3100 | 3101 => Meaning::Away,
        // Errors of the server's operating system, such as a disk that is full; 1878 is one of its temporary files.
        ..=999 | 1878 => Meaning::Away,
        _ => Meaning::Row,
    }
}

/// The failure of a whole batch or connection.
pub fn failure(server: &str, error: &mysql_async::Error) -> Failure {
    let message = match error {
        // What is wrong with a row can be said only by quoting it.
        mysql_async::Error::Server(error) if meaning(error.code) == Meaning::Row => {
            format!("{server}: error {}", error.code)
        }
        // The server's own text names the user and the address it saw, never the password.
        mysql_async::Error::Server(error) => format!("{server}: error {}: {}", error.code, error.message),
        mysql_async::Error::Io(error) => format!("{server}: {}", innermost(error)),
        // A driver's error can print the values of a row.
        mysql_async::Error::Driver(mysql_async::DriverError::ConnectionClosed) => {
            format!("{server}: the connection was closed")
        }
        mysql_async::Error::Driver(_) => format!("{server}: the driver and the server do not understand each other"),
        mysql_async::Error::Url(_) => format!("{server}: the URL can't be read"),
        mysql_async::Error::Other(_) => format!("{server}: the connection failed"),
    };
    match error {
        mysql_async::Error::Server(error) if meaning(error.code) == Meaning::Denied => Failure::Denied(message),
        _ => Failure::Away(message),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_mean_what_can_be_done_about_them() {
        for (code, expected) in [
            (1045, Meaning::Denied), // access denied
            (1049, Meaning::Denied), // unknown database
            (1142, Meaning::Denied), // no right to INSERT
            (1040, Meaning::Away),   // too many connections
            (1205, Meaning::Away),   // lock wait timeout
            (1213, Meaning::Away),   // deadlock
            (1021, Meaning::Away),   // disk full
            (1114, Meaning::Away),   // table full
            (1146, Meaning::Away),   // no such table
            (3, Meaning::Away),      // the server's own disk full
            (1878, Meaning::Away),   // and its temporary files
            (1696, Meaning::Away),   // a table's file of partitions can't be read
            (1406, Meaning::Row),    // data too long
            (1366, Meaning::Row),    // incorrect string
            (1048, Meaning::Row),    // column can't be null
            (1644, Meaning::Row),    // a trigger's SIGNAL
            (9999, Meaning::Row),    // unknown errors must not block for ever
        ] {
            assert_eq!(meaning(code), expected, "{code}");
        }
    }
}
