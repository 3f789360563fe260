"""Lists of mounts as systems have them, shortened to what matters."""

from __future__ import annotations

POD = b"""\
2112 1876 0:215 / / ro,relatime master:612 - overlay overlay rw,lowerdir=/a,upperdir=/c
2113 2112 0:217 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
2120 2112 259:1 /var/lib/kubelet/pods/8f/etc-hosts /etc/hosts rw,noatime - xfs /dev/nvme0n1p1 rw
2121 2112 259:3 /modelcache /mnt/nvme/modelcache rw,noatime master:1 - xfs /dev/nvme1n1 rw,attr2
2122 2112 0:210 / /run/secrets/kubernetes.io/serviceaccount ro,relatime - tmpfs tmpfs rw,size=64k
"""
"""A container: everything of the host is a bind mount."""

WITH_DISK = b"""\
1 0 0:2 / / rw - rootfs rootfs rw
27 1 259:1 / / rw,relatime shared:1 - xfs /dev/nvme0n1p1 rw,attr2
30 27 0:25 / /mnt rw,relatime shared:9 - tmpfs tmpfs rw
61 30 259:3 / /mnt/nvme rw,noatime shared:31 - xfs /dev/nvme1n1 rw,attr2
"""
"""The host of that container: the disk is mounted, on a tmpfs as on Google's COS."""

BOTTLEROCKET = b"""\
20 1 252:0 / / ro,relatime shared:1 - ext4 /dev/dm-0 ro,seclabel
40 20 259:18 /mnt /mnt rw,nosuid,nodev,noatime shared:12 - xfs /dev/nvme1n1p1 rw,seclabel
51 40 259:20 / /mnt/.ephemeral rw,nosuid,nodev,noatime - xfs /dev/nvme2n1 rw,seclabel
52 40 259:20 /._mnt_modelcache /mnt/modelcache rw,nosuid,noatime shared:14 - xfs /dev/nvme2n1 rw
"""
"""Bottlerocket after `apiclient ephemeral-storage bind --dirs /mnt/modelcache`."""
