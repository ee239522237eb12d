"""Damage to whole frames that is recorded: bursts of blur, noise, darkness, compression and occlusion in any video."""

from vod2.data.damage.bursts import Burst, DamageConfig, burst_at, damage_frame, plan_bursts
from vod2.data.damage.kinds import DAMAGES
from vod2.moved import moved

__all__ = ["DAMAGES", "Burst", "DamageConfig", "burst_at", "damage_frame", "plan_bursts"]

__getattr__ = moved(__name__, {"dataset": "vod2.data.datasets.damaged"})
