/// A right that a token gives. A greater right includes the lesser ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    Read,
    /// To say what happened.
    Write,
    /// To change plugins, and all else.
    Admin,
}

impl Right {
    /// From least to most.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// The name of the file in the data directory that holds the token.
    pub fn file_name(self) -> String {
        format!("{}.token", self.as_str())
    }
}
