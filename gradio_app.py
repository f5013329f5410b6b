"""The panel on its own: over a folder of images, or over all ComfyUIs that share a store.

python gradio_app.py PHOTOS --routes keep,fix,reject --out sorted
python gradio_app.py --store postgresql+psycopg://USER@HOST/NAME --pictures /mnt/pictures
"""

import sys

from imagegate.command.main import main

if __name__ == "__main__":
    sys.exit(main())
