/// A right that a token gives. A greater right includes the lesser ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    Read,
    /// Reporting instances and events.
    Write,
    /// Changing plugins, and everything else.
    Admin,
}

impl Right {
    /// All rights, from the least to the greatest.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// Returns the name of the token's file in the data directory.
    pub fn file_name(self) -> String {
        format!("{}.token", self.as_str())
    }
}
