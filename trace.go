package wireguard

// Notices are what the device tells the program of itself: lines of the log.

// maxNotices is how many notices may wait. Later ones are lost.
const maxNotices = 1024

// notify has tell called by a goroutine of the device that holds no lock. Notices
// are called one after another, in the order of notify. The caller may hold any
// lock of the device.
func (d *Device) notify(tell func()) { d.notices.submit(tell, maxNotices) }
