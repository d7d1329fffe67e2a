"""The text for operator attribution: prose, code, figures, a table, JSON and Chinese.

Changing it changes every finding.
"""

__all__ = ["TEXT"]

TEXT = '''\
The old harbour lies at the end of a narrow road that winds between stone walls and orchards. In the morning
the boats come back before the sun is above the hills, and the men who own them sort the catch on wooden
tables while the gulls wait on the roofs. Nobody hurries. A scale hangs from a beam, and beside it a slate on
which the prices of the day are written in chalk. By nine o'clock everything is sold, the tables have been
washed with sea water, and the only sound is that of the ropes against the masts.

def moving_average(values, window):
    """The mean of each run of `window` neighbours."""
    if window < 1 or window > len(values):
        raise ValueError("the window does not fit")
    total = sum(values[:window])
    means = [total / window]
    for left, right in zip(values, values[window:]):
        total += right - left
        means.append(total / window)
    return means

A train leaves at 08:15 and arrives at 11:45, so the journey takes 3.5 hours. At an average of 92 km/h that is
322 km. A second train covers the same distance in 2 hours and 48 minutes, which is 2.8 hours, at 115 km/h.
The difference of the two speeds is 23 km/h, a quarter of 92.

| month | rainfall, mm | days with frost |
|---|---|---|
| January | 71 | 18 |
| April | 48 | 3 |
| July | 64 | 0 |
| October | 83 | 2 |

春天的早晨，河边的柳树刚刚发芽，孩子们在桥上看鱼。老人说，三十年前这里还没有桥，人们坐小船过河，冬天河水结冰的时候就走过去。现在桥上每天都有很多车，可是河里的鱼比以前少了。

Water boils at a lower temperature on a mountain because the air above it weighs less. At sea level the
pressure is about 101 kPa and the boiling point is 100 °C; at 3,000 metres it is about 70 kPa and 90 °C. This
is why rice takes longer to cook in the mountains, and why a pressure cooker, which holds the steam in, makes
it faster everywhere.

{"order": 1047, "customer": {"name": "Ines", "country": "PT"}, "items": [{"sku": "A-17", "count": 2, "price":
12.5}, {"sku": "C-03", "count": 1, "price": 80.0}], "paid": true}

Question: Which of these numbers is prime: 51, 57, 59, 63?
Answer: 51 is 3 × 17, 57 is 3 × 19 and 63 is 7 × 9. The only number that has no divisor but one and itself is
59.

Dear colleagues, the meeting on Thursday has to be moved, since the room is being painted. We shall meet on
Friday at ten in the library instead. Please bring the figures of the last quarter, and tell me by Wednesday
whether you can come. The minutes of the previous meeting are attached.
'''
