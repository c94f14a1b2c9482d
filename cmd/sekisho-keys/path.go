package main

import (
	"errors"
	"syscall"
)

// guard decides whether the socket at path can be believed, and returns the
// uid that owns its folder.
//
// What it keeps off: whoever can put a socket of his own at path can answer
// for sekishod and let himself in as anybody. A look at the socket itself
// would come too late and tell little, so its folder must keep others out:
// it belongs to the broker's user, root or the caller, and nobody but its
// owner may write to it. Nor may anybody move the folder away and put
// another in its place, so each folder above must be root's or the caller's
// own and writable by nobody else. A sticky one such as /tmp may stand above
// a folder of root's or the caller's own, which others cannot move, but
// never directly above the socket. Symbolic links are not followed, since
// their targets' folders are others. The peer's uid, checked after the
// connect, is the second lock.
func guard(path string, euid int) (owner uint32, err error) {
	if path == "" || path[0] != '/' || path[len(path)-1] == '/' {
		return 0, errors.New("the socket's path must be absolute: give --socket a whole path")
	}
	loose := false // others may put entries into the folder above
	for at := 0; at < len(path); {
		end := at + 1
		for end < len(path) && path[end] != '/' {
			end++
		}
		if name := path[at+1 : end]; name == "" || name == "." || name == ".." {
			return 0, errors.New("the socket's path must have no empty part, . or ..: give --socket the plain path")
		}
		dir := path[:max(at, 1)] // the folder that holds this part
		last := end == len(path)
		var st syscall.Stat_t
		if err := lstat(dir, &st); err != nil {
			return 0, errors.New("looking at " + dir + ", which should hold sekishod's socket: " + mend(err))
		}
		own := st.Uid == 0 || int64(st.Uid) == int64(euid)
		open := st.Mode&0o022 != 0
		switch {
		case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
			return 0, errors.New(dir + " is not a directory: give --socket the path without symbolic links")
		case !own && (!last || loose):
			return 0, errors.New(dir + " belongs to user " + utoa(st.Uid) + ", who could put up a false socket: chown root " + dir)
		case open && (last || st.Mode&syscall.S_ISVTX == 0):
			return 0, errors.New(dir + " is writable by others than its owner, who could put up a false socket: chmod go-w " + dir)
		}
		loose, owner, at = open, st.Uid, end
	}
	return owner, nil
}

func lstat(path string, st *syscall.Stat_t) error {
	for {
		if err := syscall.Lstat(path, st); err != syscall.EINTR {
			return err
		}
	}
}
